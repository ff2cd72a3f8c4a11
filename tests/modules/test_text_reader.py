"""The reader's stage, and what is built on it, from the command line."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lvad.cli import main
from lvad.commands.trained_run import load_run
from lvad.data.pseudo_labels import read_pseudo_labels
from lvad.data.recordings import recording_of_id
from lvad.errors import DataError
from lvad.modules import TextReader
from lvad.policy import HFPolicy
from lvad.rewards import Reader


class Silent(nn.Module):
    """A policy that says the same of everything."""

    def encode(self, batch):
        return batch.ids

    def generate(self, prefix, num_completions):
        return SimpleNamespace(texts=[["A car."] * num_completions for _ in prefix])


POLICY = "--model.init_args.policy.init_args"
NAMED = "--model.init_args.reward.init_args.model"


@pytest.fixture(scope="module")
def small(vlm_folder, drawn_root):
    return [
        "--data.source.root", drawn_root, "--data.source.format", "lastframe", "--data.batch_size", "8",
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", f"{POLICY}.model", vlm_folder,
        f"{POLICY}.sampling.max_new_tokens", "10",
    ]  # fmt: skip


def lvad(*args):
    assert main([*map(str, args)]) == 0


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A reader of 10 labels, which is sure of everything, on what a policy with random weights says; tested."""
    root = tmp_path_factory.mktemp("logs")
    place = ["--trainer.logger.init_args.save_dir", root, "--model.init_args.num_completions", "2"]
    sure = ["--model.init_args.threshold", "1e-9", "--data.split.budget", "10"]
    lvad("fit", "--config", "configs/study/reader.yaml", *small, *place, *sure)
    folder = root / "study_reader/version_0"
    lvad("test", "--ckpt_path", folder / "checkpoints/last.ckpt")
    return folder


def test_labels_and_pseudo_labels_are_those_of_the_budget(run):
    ledger = json.loads((run / "model/ledger.json").read_text())
    labelled = ledger["TextReader train, labelled"]
    reader = Reader(str(run / "model"))
    assert sorted(reader.parts.scenes) == labelled
    assert len(labelled) == 10
    num_folds = min(5, len({recording_of_id(name) for name in labelled}))
    assert {scene.fold for scene in reader.parts.scenes.values()} == set(range(num_folds))
    pseudo = read_pseudo_labels(run / "model/pseudo_labels.json")
    assert sorted(pseudo) == ledger["TextReader train, unlabelled"]
    assert all(0 < label.probability <= 1 for label in pseudo.values())


def test_the_checkpoint_holds_the_reader_that_was_exported(run):
    module = load_run(run, "last").module
    assert isinstance(module, TextReader)
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    module.on_load_checkpoint(checkpoint)
    exported = Reader(str(run / "model")).parts
    assert module.parts is not None
    assert torch.equal(module.parts.weights, exported.weights)
    assert (module.parts.vocabulary, module.parts.scenes) == (exported.vocabulary, exported.scenes)
    assert len(module.described) == 16
    assert all(len(texts) == 4 for texts in module.described.values())


def test_the_test_decides_on_all_scenes(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/parse_failure"] == 0
    assert 0 <= metrics["test/action_macro_f1"] <= 1
    assert len((run / "answers.jsonl").read_text().splitlines()) == 8


def test_a_policy_is_trained_on_it(run, small, tmp_path):
    reward = json.dumps({"class_path": "lvad.rewards.Reader", "init_args": {"model": str(run / "model")}})
    options = ["--model.init_args.reward", reward, "--model.init_args.num_completions", "2", "--trainer.max_steps", "2"]
    lvad(
        "fit", "--config", "configs/study/rloo.yaml", *small, *options, "--trainer.logger.init_args.save_dir", tmp_path
    )
    folder = tmp_path / "study_rloo/version_0"
    ledger = json.loads((folder / "model/ledger.json").read_text())
    assert len(ledger["TextReader train, labelled"]) == 10  # the reward's labels are the policy's
    assert "RLOOPolicy train, labelled" not in ledger


def test_answers_are_trained_on_its_labels(run, small, tmp_path):
    options = [NAMED, run / "model", "--model.init_args.num_completions", "2", "--trainer.max_steps", "1"]
    place = ["--trainer.logger.init_args.save_dir", tmp_path]
    lvad("fit", "--config", "configs/study/rloo_answers.yaml", *small, *options, *place)
    assert (tmp_path / "study_rloo_answers/version_0/model/config.json").is_file()


def test_an_audit_finds_the_reader_by_its_folder(run, drawn_root, tmp_path, capsys):
    code = main(["audit", "--reward", str(run / "model"), "--root", str(drawn_root), "--out", str(tmp_path / "audit")])
    assert code == 1  # it knows nothing: random texts were read
    found = json.loads((tmp_path / "audit/audit.json").read_text())
    assert found["num_scenes"] == 8


def test_an_export_is_refused(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "reader")]) == 1
    assert "a reader has no weights for other tools" in capsys.readouterr().err


def test_too_few_labels_are_refused(small, tmp_path, capsys):
    args = [
        "--data.split.budget",
        "1",
        "--model.init_args.num_completions",
        "1",
        "--trainer.logger.init_args.save_dir",
        tmp_path,
    ]
    assert main(["fit", "--config", "configs/study/reader.yaml", *map(str, [*small, *args])]) == 1
    assert "1 labelled training scenes are too few to fit a reader across folds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_completions": 0}, "num_completions must be >= 1, got 0"),
        ({"num_folds": 1}, "num_folds must be >= 2, got 1"),
        ({"penalty": 0.0}, "penalty must be > 0"),
        ({"threshold": 1.5}, r"threshold in \(0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(options, message, vlm_folder):
    with pytest.raises(ValueError, match=message):
        TextReader(HFPolicy(str(vlm_folder), lora=None), **options)


def test_it_decides_on_frames_without_labels_and_is_held_against_constant_answers(run, drawn_root, tmp_path):
    lvad(
        "predict", drawn_root / "data", "--ckpt_path", run / "checkpoints/last.ckpt", "--out", tmp_path / "said",
        "--trainer.enable_progress_bar", "false", "--predictions.pictures", "false",
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "said/predictions.jsonl").read_text().splitlines()]
    for row in rows:
        chosen = [name for name, p in row["action_probabilities"].items() if p > 0.5]
        assert row["actions"] == chosen
        assert row["description"]
    scores = json.loads((run / "metrics.json").read_text())
    assert scores["test/all_positive/action_macro_f1"] > scores["test/all_negative/action_macro_f1"] == 0
    assert "always stop" in (run / "tables.md").read_text()


def test_scenes_of_one_named_recording_are_in_one_fold(make_batch, monkeypatch):
    """Their ids name none, and would be recordings of their own."""
    reader = TextReader(Silent())
    monkeypatch.setattr(reader, "optimizers", lambda: SimpleNamespace(step=lambda: None))
    batch = make_batch(1, 1)._replace(actions=torch.zeros(2, 4).long(), reasons=torch.zeros(2, 21).long())
    reader.training_step(batch._replace(recordings=["drive", "drive"]), 0)
    with pytest.raises(DataError, match="give labelled scenes of 2 recordings at least"):
        reader.on_train_epoch_end()
    checkpoint = {}
    reader.on_save_checkpoint(checkpoint)
    later = TextReader(Silent())
    later.on_load_checkpoint(checkpoint)
    assert later.recordings == dict.fromkeys(batch.ids, "drive")
    del checkpoint["recordings"]  # as an earlier lvad wrote it
    later.on_load_checkpoint(checkpoint)
    assert later.recordings == {name: name for name in batch.ids}
