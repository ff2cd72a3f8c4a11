"""docs/evaluation.md has a row, with formula and range, for every score that a run logs."""

import ast
import json
import re

import pytest
from pages import ROOT, text_of
from small_fits import LORA, POLICY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lvad.cli import main
from lvad.report.tensorboard_events import tag

PAGE = text_of("docs/evaluation.md")
ROWS = re.findall(r"^\| `(\S+)`(?: \(.+?\))? \| (.+) \| (.+) \|$", PAGE, re.M)
PLACEHOLDERS = {
    "<labels>": "(?:action|reason)",
    "<floor>": "(?:always_stop|majority|all_positive|all_negative)",
    "<score>": ".+",
}
"""What stands for several names; any other one stands for one part of a key."""
GROUPS = "train|reward|rollout|advantage|critic|rehearsal|reader|time|memory|fixmatch|val"
KEY = re.compile(rf"(?:{GROUPS})/[a-z0-9_]+")
FEW_TOKENS = [f"{POLICY}.model", "embedded/vlm", f"{POLICY}.sampling.max_new_tokens", "10"]
CLIP = "--model.init_args.clip.init_args.model"


def pattern(key):
    """The names in ``metrics.json`` and in TensorBoard that a key of the page stands for."""
    held_out = key.startswith("val/")
    found = ""
    for name in {key, tag(key)} | ({key.replace("val/", "test/"), f"{key}_start"} if held_out else set()):
        parts = re.split(r"(<\w+>)", name)
        found += "|" + "".join(PLACEHOLDERS.get(p, "[^/]+") if p.startswith("<") else re.escape(p) for p in parts)
    return found[1:]


PATTERN = re.compile("|".join(pattern(key) for key, _, _ in ROWS))


def logged_by(run):
    """The names of all numbers that a run left behind."""
    names = set(json.loads((run / "metrics.json").read_text()))
    for file in run.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        names |= set(events.Tags()["scalars"])
    return names


def without_row(run):
    return sorted(name for name in logged_by(run) if not PATTERN.fullmatch(name))


def test_what_descriptions_and_rewards_log_has_a_row(lora_run, clip_run):
    assert len(logged_by(lora_run)) > 20
    assert "val/score_right" in logged_by(clip_run)
    assert without_row(lora_run) == without_row(clip_run) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "options", "checkpoint"),
    [
        ("rloo", ["--trainer.num_sanity_val_steps", "-1", "--model.init_args.estimator", "SCST"], "best"),
        ("clip_reward", [], "best"),
        ("action_sft", [], "best"),
        ("two_stage", LORA, "best"),
        ("study/reader", [], "last"),
        ("toy_sft", [*FEW_TOKENS, "--data.split.subset", "all"], "best"),
        ("toy_a2c", [*FEW_TOKENS, "--data.split.subset", "all"], "best"),
        ("bddx/caption_sft", FEW_TOKENS, "best"),
        ("pretrain_vlm", FEW_TOKENS, "best"),
        ("pretrain_clip", [CLIP, "embedded/clip"], "best"),
    ],
)
def test_what_a_stage_logs_in_fit_and_test_has_a_row(fit, stage, options, checkpoint):
    run = fit(stage, *options)
    tested = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / f"checkpoints/{checkpoint}.ckpt")]
    assert main(["test", *tested, "--trainer.enable_progress_bar", "false"]) == 0
    assert any(name.startswith("test/") for name in logged_by(run))
    assert without_row(run) == []


def test_a_key_without_a_row_is_found():
    assert PATTERN.fullmatch("test/action_f1/forward")
    assert PATTERN.fullmatch("while_training/train_kl")
    assert not PATTERN.fullmatch("val/nothing")
    assert not PATTERN.fullmatch("test/action_nothing/forward")


def test_keys_that_no_small_run_logs_have_a_row_too():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "lvad").rglob("*.py")]
    strings = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    keys = {value for value in strings if isinstance(value, str) and KEY.fullmatch(value)}
    assert len(keys) > 25
    assert [key for key in sorted(keys) if not PATTERN.fullmatch(key)] == []


def test_every_row_has_a_formula_and_a_range():
    assert len(ROWS) == len(re.findall(r"^\| `", PAGE, re.M)) > 60
    assert all(len(formula) > 10 and len(unit) > 2 for _, formula, unit in ROWS)
