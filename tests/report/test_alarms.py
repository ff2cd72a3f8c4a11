"""Alarms: each decision by hand, and each alarm in a scripted run, whole and resumed."""

import json
import warnings
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import DataLoader

from lvad.report.alarms import Alarms, has_grown, is_hacking, is_longer, judge_of, lacks_spread

STEPS = 8  # two epochs of four batches
HEALTHY = {
    "reward/mean": [0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.4],
    "advantage/zero_spread": [0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5],
    "rollout/length": [20.0, 22.0, 25.0, 30.0, 28.0, 31.0, 30.0, 30.0],
    "rollout/truncated": [0.0, 0.1, 0.0, 0.2, 0.0, 0.0, 0.1, 0.0],
    "rollout/common": [0.1, 0.0, 0.1, 0.2, 0.1, 0.1, 0.0, 0.1],
    "train/kl": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5],
}
HEALTHY_HELD_OUT = {  # at the start, then every two batches
    "val/reward": [0.3, 0.4, 0.5, 0.5, 0.6],
    "val/judge": [0.5, 0.49, 0.6, 0.6, 0.6],
    "val/distinct": [0.9, 0.9, 0.9, 0.9, 0.9],
}


class Scripted(LightningModule):
    """Logs what the script says for its step."""

    def __init__(self, training, held_out):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.training_script, self.held_out_script = training, held_out

    def training_step(self, batch, batch_idx):
        self.log_dict({name: values[self.global_step] for name, values in self.training_script.items()})
        return self.layer(batch).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log_dict({name: values[self.global_step // 2] for name, values in self.held_out_script.items()})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Written(Logger):
    """What was logged of the alarms, in order."""

    name: Any = None
    version: Any = None

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows += [(step, name, value) for name, value in metrics.items() if name.startswith("alarm/")]

    def log_hyperparams(self, *args, **kwargs):
        pass


def fit(root, training=HEALTHY, held_out=HEALTHY_HELD_OUT, ckpt_path=None, sanity=-1, **config):
    """Two epochs; the alarms, and what they logged: at the batch that raised it, one below the steps then done."""
    alarms, written = Alarms(**{"window": 2, **config}), Written()
    every = ModelCheckpoint(root, filename="{step}", save_top_k=-1, monitor=None)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, val_check_interval=0.5, num_sanity_val_steps=sanity, logger=written,
        callbacks=[alarms, every], enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    batches: Any = torch.ones(4, 1)
    trainer.fit(Scripted(training, held_out), DataLoader(batches), DataLoader(batches[:3]), ckpt_path=ckpt_path)
    return alarms, written.rows


def of(rows, alarm):
    return [(step, value) for step, name, value in rows if name == f"alarm/{alarm}"]


def test_hacking_takes_a_rise_of_the_reward_and_a_fall_of_the_judge_beyond_its_tolerance():
    first = {"val/reward": 0.3, "val/judge": 0.5}
    assert is_hacking(first, {"val/reward": 0.4, "val/judge": 0.40}, "val/judge", 0.05)
    assert not is_hacking(first, {"val/reward": 0.4, "val/judge": 0.46}, "val/judge", 0.05)
    assert not is_hacking(first, {"val/reward": 0.3, "val/judge": 0.40}, "val/judge", 0.05)


def test_the_held_out_judge_comes_before_the_facts_and_nothing_is_compared_with_what_is_absent():
    both = {"val/reward": 0.3, "val/judge": 0.5, "val/fact_precision": 0.9}
    facts = {"val/reward": 0.3, "val/fact_precision": 0.9}
    assert judge_of(both, both) == "val/judge"
    assert judge_of(both, facts) == judge_of(facts, both) == "val/fact_precision"
    assert judge_of(facts, {"val/reward": 0.3}) is None
    assert judge_of({"val/judge": 0.5}, {"val/judge": 0.5}) is None


def test_a_share_has_grown_above_its_limit_and_by_a_margin_over_the_start():
    assert has_grown(0.1, 0.51, 0.5)
    assert not has_grown(0.1, 0.5, 0.5)
    assert not has_grown(0.95, 0.99, 0.5)  # high from the start
    assert has_grown(0.45, 0.56, 0.5)  # 0.11 more


def test_length_and_spread():
    assert is_longer(10.0, 20.5, 2.0)
    assert not is_longer(10.0, 20.0, 2.0)
    assert lacks_spread(1.0)
    assert not lacks_spread(0.99)


def test_a_healthy_run_raises_nothing_and_logs_each_alarm_once(tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="ALARM")
        alarms, rows = fit(tmp_path)
    assert alarms.raised == []
    assert sorted(rows) == [
        (0, "alarm/hacking", 0.0), (1, "alarm/far", 0.0), (1, "alarm/no_spread", 0.0), (1, "alarm/runaway", 0.0),
        (1, "alarm/takeover", 0.0), (7, "alarm/worse", 0.0),
    ]  # fmt: skip


def test_takeover_rings_when_a_window_is_above_the_share_and_ends_after_a_quiet_window(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("lvad.report.alarms.rank_zero_info", said.append)
    # means of two: step 2 0.1, 3 0.1, 4 0.5 (not above), 5 0.9, 6 0.5 (quiet once), 7 0.1 (twice), 8 0.1
    script = HEALTHY | {"rollout/common": [0.1, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1]}
    with pytest.warns(UserWarning, match=r"ALARM takeover at step 5: one text is 90% of .* 10% of the first"):
        alarms, rows = fit(tmp_path, script)
    assert of(rows, "takeover") == [(1, 0.0), (4, 1.0), (6, 0.0)]
    (raised,) = alarms.raised
    assert (raised["step"], raised["alarm"]) == (5, "takeover")
    assert "reward/mean 0.300, val/distinct 0.90: raise kl.beta" in raised["text"]
    assert said == ["alarm takeover, raised at step 5, is over at step 7"]


def test_an_alarm_at_its_limit_rings_once(tmp_path):
    # means of two: 4 0.4, 5 0.7, 6 0.45, 7 0.55, 8 0.55: never quiet twice
    script = HEALTHY | {"rollout/common": [0.1, 0.1, 0.1, 0.7, 0.7, 0.2, 0.9, 0.2]}
    with pytest.warns(UserWarning, match="ALARM takeover"):
        alarms, rows = fit(tmp_path, script)
    assert of(rows, "takeover") == [(1, 0.0), (4, 1.0)]
    assert len(alarms.raised) == 1


def test_no_spread_rings_when_a_whole_window_teaches_nothing(tmp_path):
    # step 2 0.75, 3 1, 4 1, 5 0.5 (quiet once), 6 0 (twice)
    script = HEALTHY | {"advantage/zero_spread": [0.5, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]}
    with pytest.warns(UserWarning, match=r"ALARM no_spread at step 3: .* reward/mean 0.200"):
        alarms, rows = fit(tmp_path, script)
    assert of(rows, "no_spread") == [(1, 0.0), (2, 1.0), (5, 0.0)]
    assert [row["alarm"] for row in alarms.raised] == ["no_spread"]


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("rollout/length", [10.0, 10.0, 10.0, 30.0, 30.0, 30.0, 30.0, 30.0], "grew from 10.0 to 30.0 tokens"),
        ("rollout/truncated", [0.0, 0.2, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9], "truncated share from 10% to 90%"),
    ],
)
def test_runaway_rings_on_length_and_on_truncation(tmp_path, name, values, text):
    # length: step 4 20, which is no more than twice 10, 5 30; truncated: step 4 0.5, which is not above, 5 0.9
    with pytest.warns(UserWarning, match=f"ALARM runaway at step 5: .*{text}"):
        alarms, rows = fit(tmp_path, HEALTHY | {name: values})
    assert of(rows, "runaway") == [(1, 0.0), (4, 1.0)]
    assert [row["alarm"] for row in alarms.raised] == ["runaway"]


@pytest.mark.parametrize("judge", ["val/judge", "val/fact_precision"])
def test_hacking_rings_at_the_second_validation_in_a_row(tmp_path, judge):
    script = {"val/reward": [0.3, 0.4, 0.5, 0.6, 0.7], judge: [0.5, 0.4, 0.3, 0.2, 0.5]}
    with pytest.warns(UserWarning, match=rf"ALARM hacking at step 4: .* {judge}, .* 0.500 to 0.300, at a KL of 0.25"):
        alarms, rows = fit(tmp_path, held_out=script)
    assert of(rows, "hacking") == [(0, 0.0), (3, 1.0), (7, 0.0)]
    assert len(alarms.raised) == 1


def test_one_bad_validation_is_noise_but_at_the_end(tmp_path):
    script = {"val/reward": [0.3, 0.4, 0.5, 0.6, 0.7], "val/judge": [0.5, 0.4, 0.5, 0.5, 0.4]}
    with pytest.warns(UserWarning, match="ALARM hacking at step 8"):
        _, rows = fit(tmp_path, held_out=script)
    assert of(rows, "hacking") == [(0, 0.0), (7, 1.0)]


def test_far_rings_where_the_kl_has_left_every_trust(tmp_path):
    # means of two: step 3 9, 4 12
    script = HEALTHY | {"train/kl": [0.0, 4.0, 8.0, 10.0, 14.0, 14.0, 14.0, 14.0]}
    with pytest.warns(
        UserWarning, match=r"ALARM far at step 5: the KL to the reference is 12\.0 nats .* raise kl\.beta"
    ):
        alarms, rows = fit(tmp_path, script)
    assert of(rows, "far") == [(1, 0.0), (4, 1.0)]
    assert len(alarms.raised) == 1


def test_a_fit_that_ends_below_its_start_says_so(tmp_path):
    script = {"val/reward": [0.368, 0.4, 0.2, 0.0, -0.31]}
    with pytest.warns(UserWarning, match=r"ALARM worse at step 8: .* val/reward from 0\.368 to -0\.310"):
        _, rows = fit(tmp_path, held_out=script)
    assert of(rows, "worse") == [(7, 1.0)]
    # Within the tolerance of 0.02 it is noise.
    _, rows = fit(tmp_path / "noise", held_out={"val/reward": [0.368, 0.4, 0.4, 0.4, 0.35]})
    assert of(rows, "worse") == [(7, 0.0)]


def test_a_start_over_a_few_scenes_is_not_compared_with(tmp_path):
    # Against the sanity check's 0.9 all validations would be hacked; the first whole one is at step 2.
    script = {"val/reward": [0.1, 0.4, 0.5, 0.6, 0.7], "val/judge": [0.9, 0.5, 0.5, 0.5, 0.5]}
    alarms, rows = fit(tmp_path, held_out=script, sanity=2)
    assert alarms.first_scores["val/judge"] == pytest.approx(0.5)
    assert of(rows, "hacking") == [(1, 0.0)]


def test_what_a_run_does_not_log_is_not_judged(tmp_path):
    alarms, rows = fit(tmp_path, {"rollout/length": [10.0] * STEPS}, {"val/reward": [0.1, 0.2, 0.3, 0.4, 0.5]})
    assert rows == [(1, "alarm/runaway", 0.0), (7, "alarm/worse", 0.0)]
    assert alarms.is_on == {"runaway": False, "worse": False}
    alarms, rows = fit(tmp_path, {}, {})
    assert rows == []
    assert not alarms.is_on


def test_a_run_shorter_than_the_window_is_not_judged(tmp_path):
    _, rows = fit(tmp_path, HEALTHY | {"advantage/zero_spread": [1.0] * STEPS}, window=9)
    assert {name for _, name, _ in rows} == {"alarm/hacking", "alarm/worse"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("step", [2, 4, 6])  # the middle of an epoch, its end, the middle of the last
def test_a_resumed_run_knows_what_an_unbroken_one_knows(tmp_path, step):
    training = HEALTHY | {
        "rollout/common": [0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.9],
        "rollout/length": [10.0, 10.0, 10.0, 30.0, 30.0, 30.0, 30.0, 30.0],
    }
    judged = [0.5, 0.4, 0.3, 0.5, 0.4]
    held_out = {"val/reward": [0.3, 0.4, 0.5, 0.6, 0.7], "val/judge": judged, "val/distinct": judged}
    whole, rows = fit(tmp_path, training, held_out)
    resumed, later = fit(tmp_path / "resumed", training, held_out, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert resumed.state_dict() == whole.state_dict()
    assert later == [row for row in rows if row[0] >= step]
    assert {row["alarm"] for row in whole.raised} == {"takeover", "runaway", "hacking", "worse"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_state_is_plain_and_a_copy(tmp_path):
    alarms, _ = fit(tmp_path, HEALTHY | {"advantage/zero_spread": [1.0] * STEPS})
    state = alarms.state_dict()
    assert json.loads(json.dumps(state)) == state
    state["raised"].clear()
    assert alarms.raised


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("window", 0, ">= 1"),
        ("judge_tolerance", -0.1, ">= 0"),
        ("judge_tolerance", float("nan"), ">= 0"),
        ("common_share", 1.0, r"in \(0, 1\)"),
        ("truncated_share", 0.0, r"in \(0, 1\)"),
        ("length_ratio", 1.0, "> 1"),
        ("kl_limit", 0.0, "> 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(name, value, allowed):
    with pytest.raises(ValueError, match=f"{name} must be {allowed}.*got"):
        Alarms(**{name: value})
