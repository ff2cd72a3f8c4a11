"""The record of a run: complete, of the best checkpoint, and without doubled rows."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from answered import REASON, STOP, scene
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader

from lvad.commands.last_checkpoint import LastCheckpoint
from lvad.data.collate import SceneDataset, collate
from lvad.report.predictions import PredictionWriter, picture_name
from lvad.report.recorder import RunRecorder, closing_line
from lvad.report.runs import best_checkpoint, command_to_test, newest_run, remove_unstarted_run, update_metrics
from lvad.types import Batch, Prediction, Scene, SceneSamples

HELD_OUT = [0.1, 0.7, 0.3]  # before the first epoch, then after each


class Fake(LightningModule):
    """Held-out rewards by schedule, best after the first epoch."""

    next_step = "lvad rest"

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.samples = []

    def training_step(self, batch, batch_idx):
        self.log_dict({"reward/mean": 0.5, "reward/best": 0.9})
        return self.layer(batch).mean()

    def validation_step(self, batch, batch_idx):
        now = self.trainer.global_step // 4
        self.log("val/reward", HELD_OUT[now])
        frames = torch.zeros(2, 3, 40, 60, dtype=torch.uint8)
        self.samples = [SceneSamples("a/b", frames, ["x", "y"], [0.1, 0.2], [-0.1, 0.1], {"clip": [0.1, 0.2]})]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def export(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weight.txt").write_text(repr(self.layer.weight.item()))


def fit(root, max_epochs, ckpt_path=None, version=0, fast_dev_run=False):
    checkpoint = ModelCheckpoint(
        monitor="val/reward", mode="max", filename="best", auto_insert_metric_name=False,
        enable_version_counter=False,
    )  # fmt: skip
    module = Fake()
    trainer = Trainer(
        accelerator="cpu", max_epochs=max_epochs, logger=TensorBoardLogger(root, "fake", version),
        callbacks=[RunRecorder(), checkpoint, LastCheckpoint()],  # as the command line orders them
        num_sanity_val_steps=-1, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        fast_dev_run=fast_dev_run,
    )  # fmt: skip
    loader = DataLoader(torch.ones(4, 1), batch_size=1)
    trainer.fit(module, loader, DataLoader(torch.ones(1, 1)), ckpt_path=ckpt_path)
    return Path(trainer.log_dir or root), module


def rows(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_numbers_are_those_of_the_start_and_of_the_best_checkpoint(tmp_path):
    folder, module = fit(tmp_path, 2)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["val/reward_start"] == pytest.approx(0.1)
    assert metrics["val/reward"] == pytest.approx(0.7)
    assert metrics["time/fit_s"] > 0
    assert metrics["memory/peak_mib"] > 100
    (recorder,) = (c for c in module.trainer.callbacks if isinstance(c, RunRecorder))
    assert recorder.closing == f"run: {folder}; held-out reward 0.100 -> 0.700; next: lvad rest"


def test_the_exported_model_is_the_best_and_not_the_last(tmp_path):
    folder, module = fit(tmp_path, 2)
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]["layer.weight"].item()
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["layer.weight"].item()
    assert best != last
    assert (folder / "model/weight.txt").read_text() == repr(best) == repr(module.layer.weight.item())


def test_samples_are_written_at_the_start_and_at_every_validation(tmp_path):
    folder, _ = fit(tmp_path, 2)
    assert [row["step"] for row in rows(folder)] == [0, 4, 8]
    assert rows(folder)[0]["completions"][1] == {"text": "y", "reward": 0.2, "advantage": 0.1, "terms": {"clip": 0.2}}
    assert (folder / "reward_curve.png").stat().st_size > 1000


def test_a_resumed_run_neither_doubles_nor_loses_rows(tmp_path):
    folder, _ = fit(tmp_path, 1)
    with (folder / "samples.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 6, "id": "lost", "completions": []}) + "\n" + '{"step": 7, "id": "ha')
    fit(tmp_path, 2, ckpt_path=folder / "checkpoints/last.ckpt")
    assert [row["step"] for row in rows(folder)] == [0, 4, 8]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["val/reward_start"] == pytest.approx(0.1)
    assert metrics["val/reward"] == pytest.approx(0.7)


def test_another_fit_in_the_same_folder_replaces_the_rows(tmp_path):
    fit(tmp_path, 2)
    folder, _ = fit(tmp_path, 1)
    assert [row["step"] for row in rows(folder)] == [0, 4]


def test_a_fast_dev_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path, 1, fast_dev_run=True)
    assert not list(tmp_path.iterdir())


def test_no_rank_asks_alone_for_the_run_folder(tmp_path, monkeypatch):
    # log_dir is a broadcast: outside the hooks that every rank runs alike, rank zero would wait for ever.
    asked = []
    log_dir = Trainer.log_dir.fget
    monkeypatch.setattr(Trainer, "log_dir", property(lambda t: asked.append(inspect.stack()[1]) or log_dir(t)))
    fit(tmp_path, 1)
    assert {frame.function for frame in asked if frame.filename.endswith("report/recorder.py")} == {"setup"}


def test_the_newest_run_is_the_one_that_last_wrote_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        newest_run(tmp_path)
    for version in (0, 1):
        folder, _ = fit(tmp_path, 1, version=version)
        (folder / "config.yaml").write_text("")
    assert newest_run(tmp_path) == tmp_path / "fake/version_1"
    assert best_checkpoint(tmp_path / "fake/version_1").name == "best.ckpt"
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        best_checkpoint(tmp_path)


def test_metrics_merge_and_are_always_json(tmp_path):
    update_metrics(tmp_path, {"val/a": 1.0, "val/b": float("nan")})
    update_metrics(tmp_path, {"val/a": 2.0, "test/c": float("inf")})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"test/c": None, "val/a": 2.0, "val/b": None}
    with pytest.raises(ValueError, match="group/name"):
        update_metrics(tmp_path, {"flat": 1.0})
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="not usable JSON"):
        update_metrics(tmp_path, {"val/a": 1.0})


def test_closing_line_without_a_reward():
    assert closing_line(Path("logs/x"), {}, "lvad test") == "run: logs/x; next: lvad test"


class Answers(LightningModule):
    """Names a reason, whether it was asked for one or not."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.answered = scores, [scene("a", STOP, STOP, reasons=REASON)]

    def test_step(self, batch, batch_idx):
        self.log_dict(dict.fromkeys(self.scores, 0.5))


@pytest.mark.parametrize("is_asked", [True, False])
def test_reasons_have_a_table_where_they_were_scored(tmp_path, is_asked):
    scores = ["test/action_macro_f1", *(["test/reason_macro_f1"] if is_asked else [])]
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[RunRecorder(str(tmp_path))], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.test(Answers(scores), DataLoader(torch.ones(1, 1)), verbose=False)
    tables = (tmp_path / "tables.md").read_text()
    assert "Table 2: actions" in tables
    assert ("Table 3: reasons" in tables) == is_asked


class Says(LightningModule):
    def predict_step(self, batch, batch_idx):
        return [Prediction(name, f"about {name}", None if i else 0.5) for i, name in enumerate(batch.ids)]


def test_predictions_of_hostile_ids_stay_in_their_folder(tmp_path):
    ids = ["../../etc/passwd", "a/b", "a_b", "", "日本", "x" * 400]
    none = torch.zeros(len(ids), 0)
    frames = [torch.zeros(1, 3, 20, 30, dtype=torch.uint8)] * len(ids)
    batch = Batch(ids, frames, none, none, [()] * len(ids), [None] * len(ids), ids)
    loader = DataLoader([batch], batch_size=None)
    writer = PredictionWriter(str(tmp_path / "out"))
    for _ in range(2):
        Trainer(
            accelerator="cpu", callbacks=[writer], logger=False, enable_progress_bar=False, default_root_dir=tmp_path
        ).predict(Says(), loader, return_predictions=False)
    kept, written = (  # a second call keeps what the first one wrote
        [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("out", "out_1")
    )
    assert kept == written
    assert [row["id"] for row in written] == ids
    assert written[0]["reward"] == 0.5
    assert "reward" not in written[1]
    for name in ("out", "out_1"):
        pictures = {(tmp_path / name / row["picture"]).resolve() for row in written}
        assert len(pictures) == len(ids)
        assert {p.parent for p in pictures} == {tmp_path / name / "pictures"}
        assert set((tmp_path / name / "pictures").iterdir()) == pictures


def test_predictions_name_their_files_and_spare_those_of_others(tmp_path, capsys):
    kept = tmp_path / "out/pictures/holiday.png"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    files = [tmp_path / "a.png", tmp_path / "a.jpg"]  # one id, two scenes
    for file in files:
        Image.new("RGB", (30, 20)).save(file)
    data = SceneDataset([Scene("a", (file,), "") for file in files], num_frames=1)
    Trainer(
        accelerator="cpu", callbacks=[PredictionWriter(str(tmp_path / "out"))], logger=False, enable_progress_bar=False,
    ).predict(Says(), DataLoader(data, batch_size=1, collate_fn=collate), return_predictions=False)  # fmt: skip
    written = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["frames"] for row in written] == [[str(file)] for file in files]
    assert kept.read_text() == "mine"
    assert capsys.readouterr().out.count("a: about a (reward 0.500)\n") == 2


def test_picture_names_never_collide():
    assert picture_name("a/b", 0, 1) != picture_name("a_b", 0, 2) != picture_name("a_b", 1, 2)


def test_the_next_command_finds_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (Path("logs/rloo/version_0"), Path("elsewhere/version_0")):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/last.ckpt").touch()
        (folder / "config.yaml").touch()
    assert command_to_test(Path("logs/rloo/version_0")) == "lvad test"
    named = "--config elsewhere/version_0/config.yaml --ckpt_path elsewhere/version_0/checkpoints/last.ckpt"
    assert command_to_test(Path("elsewhere/version_0")) == f"lvad test {named}"


def test_a_folder_with_anything_but_a_start_is_kept(tmp_path):
    for name in ("config.yaml", "events.out.tfevents.1.host", "ledger.json"):
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    remove_unstarted_run(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / "notes.txt").unlink()
    remove_unstarted_run(tmp_path)
    assert not tmp_path.exists()
    remove_unstarted_run(tmp_path)
