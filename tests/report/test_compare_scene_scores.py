"""Runs compared by what was found scene by scene."""

import json
import math

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from lvad.commands.report import run
from lvad.errors import DataError
from lvad.metrics.intervals import bootstrap_ratio
from lvad.metrics.matching import Matches, per_scene_scores
from lvad.modules.clip_reward import scene_scores
from lvad.report.compare_scene_scores import compare_scored_runs, read_scored_run
from lvad.report.scene_scores import SCORED, read_scene_scores, write_scene_scores
from lvad.report.tensorboard_events import read_curves
from lvad.types import SceneScores


def make_run(folder, rewards, claims=()):
    rows = []
    for i, reward in enumerate(rewards):
        scores = {"reward": (reward, 1.0)}
        if claims:
            scores["fact_precision"] = claims[i]
        rows.append(SceneScores(f"s{i}", scores))
    folder.mkdir(parents=True)
    write_scene_scores(folder / SCORED, rows)
    (folder / "metrics.json").write_text(json.dumps({"val/reward": rewards[0], "val/reward_start": 0.1}))
    with SummaryWriter(folder) as writer:
        for step in (1, 2):
            writer.add_scalar("val/reward", rewards[0] * step, step)
    return folder


def test_rows_come_back(tmp_path):
    rows = [SceneScores("a", {"reward": (0.5, 1.0)}), SceneScores("b", {"fact_precision": (2.0, 3.0)})]
    assert read_scene_scores(write_scene_scores(tmp_path / SCORED, rows)) == rows


@pytest.mark.parametrize(
    "row",
    ['{"id": 1, "scores": {}}', '{"id": "a", "scores": {"x": [1]}}', '{"id": "a", "scores": {"x": [1, null]}}', "[]"],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, row):
    (tmp_path / SCORED).write_text(f'{{"id": "z", "scores": {{}}}}\n{row}\n')
    with pytest.raises(DataError, match=r"scored\.jsonl.*line 2.*is no scene with scores"):
        read_scene_scores(tmp_path / SCORED)


def test_ratios_by_hand():
    """(1 + 3) / (2 + 4) less (0 + 3) / (1 + 3)."""
    parts, wholes = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])
    assert bootstrap_ratio(parts, wholes).mean == pytest.approx(4 / 6)
    less = (torch.tensor([0.0, 3.0]), torch.tensor([1.0, 3.0]))
    assert bootstrap_ratio(parts, wholes, less).mean == pytest.approx(4 / 6 - 3 / 4)
    same = bootstrap_ratio(parts, wholes, (parts, wholes))
    assert same == (0.0, 0.0, 0.0)  # drawn together
    assert bootstrap_ratio(torch.ones(9), torch.ones(9)) == (1.0, 1.0, 1.0)


def test_a_scene_by_itself():
    """Right 0.9 and 0.2 against wrong 0.5 and 0.2: pairs won 1, 1, 0, 1/2; mean 0.55 less 0.35."""
    matches = Matches(
        torch.tensor([[0.9, 0.2, 0.5, 0.2], [0.1, 0.2, 0.3, 0.4]]),
        torch.tensor([[True, True, False, False], [True, True, True, True]]),
        torch.tensor([[False, False, True, True], [False] * 4]),
    )
    found = per_scene_scores(matches)
    assert found["scene_auroc"][0] == pytest.approx(2.5 / 4)
    assert found["separation"][0] == pytest.approx(0.2)
    assert math.isnan(found["separation"][1])
    assert [scene.id for scene in scene_scores(["a", "b"], matches)] == ["a"]


def test_runs_in_pairs(tmp_path):
    better = make_run(tmp_path / "a/version_0", [0.5, 0.6, 0.7], [(1.0, 1.0), (0.0, 0.0), (3.0, 4.0)])
    worse = make_run(tmp_path / "b/version_0", [0.4, 0.5, 0.6], [(1.0, 2.0), (0.0, 0.0), (1.0, 2.0)])
    found = compare_scored_runs([read_scored_run(better, "a"), read_scored_run(worse, "b")])
    assert found.scores["a"]["reward"].mean == pytest.approx(0.6)
    assert found.scores["a"]["fact_precision"].mean == pytest.approx(4 / 5)  # of all claims, not of scenes
    assert found.differences["b"]["reward"] == pytest.approx((0.1, 0.1, 0.1))
    assert read_curves(better, ["val/reward", "val/judge"])["val/reward"] == [(1, 0.5), (2, 1.0)]


def test_lvad_report_compares_them(tmp_path, capsys):
    rewards = {"a": [0.5, 0.7], "b": [0.4, 0.5]}
    runs = [str(make_run(tmp_path / name / "version_0", values)) for name, values in rewards.items()]
    assert run([*runs, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "| reward | +0.150 (+0.100 to +0.200) * |" in said
    assert "| val/reward | 0.100 -> 0.500 | 0.100 -> 0.400 |" in said
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "comparison.md",
        "comparison.json",
        "comparison.png",
        "comparison.html",
    }


def test_other_scenes_and_other_stages_are_refused(tmp_path, capsys):
    one, two = make_run(tmp_path / "a", [0.5, 0.7]), make_run(tmp_path / "b", [0.5, 0.7, 0.9])
    assert run([str(one), str(two), "--out", str(tmp_path / "out")]) == 1
    assert "'a' lacks 1 scenes of 'b', such as ['s2']" in capsys.readouterr().err
    (two / "answers.jsonl").write_text("")
    assert run([str(one), str(two), "--out", str(tmp_path / "out")]) == 1
    assert "compare runs that answer, or runs of one other stage" in capsys.readouterr().err
