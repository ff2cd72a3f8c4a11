"""TensorBoard's cards in order, and the configuration in its HPARAMS tab."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lvad.report.board import TensorBoard, hyperparameters
from lvad.report.tensorboard_events import FIRST, read_curves, tag

LOGGED = ("reward/mean", "val/judge", "samples/a", "test/reward", "train/kl", "advantage/std", "alarm/far", "lr-AdamW")


def test_what_a_run_is_for_comes_first():
    """TensorBoard sorts by name."""
    groups = sorted({tag(name).partition("/")[0] for name in LOGGED})
    assert groups == ["reward", "samples", "test", "val", "while_training"]
    assert tag("train/kl") == "while_training/train_kl"
    assert max(FIRST) < "while_training"


def test_values_of_a_configuration():
    config = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 1, "enable_progress_bar": True, "logger": {"class_path": "x.y.Z"}, "precision": None},
        "model": {"class_path": "lvad.modules.RLOOPolicy", "init_args": {"kl": {"beta": 0.05}, "num_completions": 8}},
        "recorder": {"run_dir": "/somewhere"},
    }
    assert dict(hyperparameters(config)) == {
        "seed_everything": 0,
        "trainer.max_epochs": 1,
        "model": "RLOOPolicy",
        "model.kl.beta": 0.05,
        "model.num_completions": 8,
    }


def test_the_events_of_a_run(tmp_path):
    board = TensorBoard(str(tmp_path), "rloo", 0)
    board.log_metrics({"reward/mean": 0.5, "train/kl": 0.25, "epoch": 0.0}, 1)
    board.log_metrics({"audit/digits": 0.9, "audit/empty": 1.0}, 0)
    board.log_configuration({"model": {"class_path": "a.B", "init_args": {"kl": {"beta": 0.05}}}})
    board.save()
    board.finalize("success")
    events = EventAccumulator(str(tmp_path / "rloo/version_0"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"reward/mean", "while_training/train_kl"}
    assert events.Tags()["tensors"] == ["audit/text_summary"]  # one card, not twelve
    started = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"model.kl.beta" in started
    assert read_curves(tmp_path / "rloo/version_0", ["train/kl"]) == {"train/kl": [(1, 0.25)]}
