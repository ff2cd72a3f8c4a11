"""``lvad audit`` as a user meets it, on a CLIP with random weights."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from lvad.audit.probes import PROBES
from lvad.cli import main
from lvad.commands.audit import build_reward
from lvad.types import Batch, Rollouts, Scores


class WordCount(nn.Module):
    """A reward that a configuration can name."""

    def __init__(self, worth: float = 1.0) -> None:
        super().__init__()
        self.worth = worth

    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        counts = [[len(text.split()) * self.worth for text in row] for row in rollouts.texts]
        return Scores(torch.tensor(counts), {})


@pytest.fixture
def audit(clip_folder, drawn_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*args, reward=clip_folder, root=drawn_root):
        code = main(["audit", "--reward", str(reward), "--root", str(root), *args])
        return code, capsys.readouterr()

    return run


def write_configuration(path, worth="2.0", class_path="WordCount"):
    path.write_text(
        f"model:\n  class_path: lvad.modules.RLOOPolicy\n  init_args:\n    reward:\n"
        f"      class_path: {__name__}.{class_path}\n      init_args: {{worth: {worth}}}\n"
    )
    return path


def test_a_table_and_two_files(audit, tmp_path, clip_folder):
    code, said = audit()
    lines = said.out.splitlines()
    assert "logs/audit/version_0/audit.json" in lines[0]
    assert set(PROBES) <= {line.split()[0] for line in lines if line}
    assert lines[-1].startswith("verdict: fail")  # of random weights
    assert code == 1
    folder = tmp_path / "logs/audit/version_0"
    assert sorted(file.name for file in folder.iterdir()) == ["audit.json", "audit.png"]
    found = json.loads((folder / "audit.json").read_text())
    assert found["reward"] == str(clip_folder)
    assert found["texts"] == "reason"
    assert found["num_scenes"] == 8
    assert found["probes"].keys() == PROBES.keys()
    assert found["probes"]["empty"]["num_scenes"] == 8
    assert {"rank", "auroc", "auroc_floor", "auroc_per_text", "calibration"} <= found.keys()
    with Image.open(folder / "audit.png") as picture:
        assert picture.width > 500


def test_a_second_audit_leaves_the_first_alone(audit, tmp_path):
    (tmp_path / "logs/audit/version_4").mkdir(parents=True)
    audit("--num_scenes", "8")
    assert (tmp_path / "logs/audit/version_5/audit.json").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/audit.json").write_text("kept")
    code, said = audit("--num_scenes", "8", "--out", "mine")
    assert code == 1
    assert "mine holds an audit already" in said.err
    assert (tmp_path / "mine/audit.json").read_text() == "kept"


def test_json_alone_or_beside_the_table(audit, tmp_path):
    code, said = audit("--json", "--texts", "caption", "--split", "train", "--num_scenes", "12", "--out", "here")
    found = json.loads(said.out)
    assert code == (found["verdict"] == "fail")
    assert (found["texts"], found["num_scenes"], found["auroc"]) == ("caption", 12, None)
    assert found == json.loads((tmp_path / "here/audit.json").read_text())
    _, said = audit("--json", "deep/mine.json", "--texts", "action")
    assert json.loads(Path("deep/mine.json").read_text())["texts"] == "action"
    assert "verdict" in said.out


def test_the_reward_of_a_run_configuration(audit, tmp_path):
    reward = write_configuration(tmp_path / "config.yaml")
    code, said = audit("--json", "--split", "train", reward=reward)
    assert code == 1
    found = json.loads(said.out)
    assert found["probes"]["digits"]["probe"] == 2.0
    assert found["probes"]["repeated"]["verdict"] == "fail"


def test_a_shipped_configuration_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hasattr(build_reward("configs/rloo.yaml"), "score")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--texts", "output", "--format", "lastframe", "--split", "val", "--num_scenes", "7"], ["8 scenes", "got 7"]),
        (["--format", "gt_4a_21r"], ["gt_4a_21r"]),
        (["--num_scenes", "0"], ["no test scenes", "raise --num_scenes"]),
    ],
)
def test_bad_data_ends_in_one_line(audit, args, words, tmp_path):
    code, said = audit(*args)
    assert code == 1
    assert one_error(said, *words)
    assert not (tmp_path / "logs").exists()


def one_error(said, *words):
    errors = [line for line in said.err.splitlines() if line.startswith("lvad: error: ")]
    assert len(errors) == 1
    assert said.err.endswith(f"{errors[0]}\n")
    assert all(word in errors[0] for word in words), errors[0]
    return True


def test_what_is_no_reward_is_named_with_the_remedy(audit, tmp_path):
    remedy = "`lvad fit` of a reward"
    (tmp_path / "empty").mkdir()
    code, said = audit(reward=tmp_path / "empty")
    assert code == 1
    assert one_error(said, str(tmp_path / "empty"), "open_clip_config.json", remedy)
    code, said = audit(reward=tmp_path / "nowhere")
    assert code == 1
    assert one_error(said, str(tmp_path / "nowhere"))
    code, said = audit(reward="no-such-architecture")
    assert code == 1
    assert one_error(said, "no-such-architecture", remedy)
    assert len(said.err) < 700
    (tmp_path / "plain.yaml").write_text("model: {class_path: a.b}\n")
    code, said = audit(reward=tmp_path / "plain.yaml")
    assert code == 1
    assert one_error(said, "plain.yaml", "model.init_args.reward")


@pytest.mark.parametrize("wrong", [{"worth": "much"}, {"class_path": "Nothing"}, {"class_path": "audit"}])
def test_a_configuration_that_cannot_be_built_ends_in_one_line(audit, tmp_path, wrong):
    code, said = audit(reward=write_configuration(tmp_path / "config.yaml", **wrong))
    assert code == 1
    assert one_error(said, "config.yaml")


def test_a_reward_that_is_no_number_ends_in_one_line(audit, tmp_path):
    code, said = audit("--split", "train", reward=write_configuration(tmp_path / "config.yaml", worth=".nan"))
    assert code == 1
    assert one_error(said, "reward nan of the right text")


@pytest.mark.parametrize("args", [["--texts", "poem"], ["--num_scenes", "many"], ["--no_such"], ["--format", "frames"]])
def test_a_bad_command_line_is_refused(audit, args):
    with pytest.raises(SystemExit) as stopped:
        audit(*args)
    assert stopped.value.code == 2


def test_help_explains_every_probe(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}: {probe.says}" in said for name, probe in PROBES.items())
    assert "--pretrained" in said
