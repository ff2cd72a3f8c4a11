from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lvad.data.check import check_source
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.frames import read_frames
from lvad.data.layouts import read_source
from lvad.data.reading import Reading
from lvad.data.recordings import recording_of_id
from lvad.data.samplers import scene_weights
from lvad.data.source import Source
from lvad.data.split_algorithms import Subset, seeded_subset, split_scenes, split_single
from lvad.taxonomy import BDD_OIA
from lvad.types import Scene

FORWARD, STOP, LEFT, RIGHT = range(4)


@pytest.fixture(scope="module")
def scenes(shared_data: Path) -> list[Scene]:
    return read_source(shared_data / "bddoia_annotations").require().scenes


def test_the_release_is_read_whole(scenes: list[Scene]) -> None:
    counts = {split: sum(scene.split == split for scene in scenes) for split in ("train", "val", "test")}
    assert counts == {"train": 7946, "val": 1117, "test": 2236}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_papers_subset(scenes: list[Scene], seed: int) -> None:
    chosen = split_single(scenes, seed)
    test = [scene.actions for scene in chosen if scene.split == "test" and scene.actions]
    assert len(chosen) == 2009
    assert [sum(actions[i] for actions in test) for i in range(len(BDD_OIA.action_names))] == [41, 339, 12, 11]
    assert sum(scene.split == "train" for scene in chosen) == 1606
    assert len({scene.id for scene in chosen}) == 2009


def test_the_order_of_the_reasons(scenes: list[Scene]) -> None:
    """P(action | reason) is what proves that index 7 is the red light, and not a rider."""
    actions = torch.tensor([scene.actions for scene in scenes], dtype=torch.float64)  # [N, A]
    reasons = torch.tensor([scene.reasons for scene in scenes], dtype=torch.float64)  # [N, R]
    share = (reasons.T @ actions) / reasons.sum(0)[:, None]  # [R, A]
    assert share.shape == (BDD_OIA.num_reasons, len(BDD_OIA.action_names))
    assert share[0:3, FORWARD].min() > 0.99
    assert share[3:9, STOP].min() > 0.98
    assert share[9:12, LEFT].min() > 0.97
    assert share[12:15, RIGHT].min() > 0.99
    assert share[15:18, LEFT].max() < 0.03
    assert share[18:21, RIGHT].max() < 0.05


def test_the_report_counts_what_is_known_of_the_release(shared_data: Path) -> None:
    report = check_source(shared_data / "bddoia_annotations")
    assert (report.exit_code, report.images) == (0, "not checked")
    assert report.actions["train"] == {"forward": 2809, "stop": 5008, "left": 1438, "right": 1674}
    assert report.actions["test"] == {"forward": 799, "stop": 1410, "left": 459, "right": 497}
    assert [report.reasons[split]["s_other"] for split in ("train", "val", "test")] == [13, 1, 2]
    # BDDOIA.md, section 3.
    assert {
        "21 scenes: no action",
        "31 scenes: no reason",
        "113 scenes: forward and stop",
        "293 scenes: neither forward nor stop",
        "57 scenes: light green and not green",
        "10 scenes: road clear and an obstacle",
        "1759 scenes: left without a reason for it",
        "65 scenes: left with a reason against it",
        "1862 scenes: right without a reason for it",
        "105 scenes: right with a reason against it",
        "487 of 10047 recordings are in more than one split",
    } <= set(report.warnings)


def test_the_report_of_the_subset(shared_data: Path) -> None:
    report = check_source(shared_data / "bddoia_annotations", subset="single")
    assert report.splits == {"train": 1606, "test": 403}
    assert report.actions["test"] == {"forward": 41, "stop": 339, "left": 12, "right": 11}


@pytest.mark.parametrize("num_frames", [2, 3, 4])
def test_real_sequences_become_batches(shared_data: Path, num_frames: int) -> None:
    data = BDDOIADataModule(Source("frames", str(shared_data / "sequences"), num_frames=num_frames))
    data.setup()
    # 3 sequences of 12 pictures.
    assert len(data.scenes["train"]) + len(data.scenes["val"]) == 3 * (12 - num_frames + 1)
    batch = next(iter(data.train_dataloader()))
    assert {tuple(frames.shape) for frames in batch.frames} == {(num_frames, 3, 360, 480)}
    assert (batch.actions == -1).all()
    # A prediction ends a scene with every picture, the first ones with fewer before them.
    shapes = [tuple(frames.shape) for batch in data.predict_dataloader() for frames in batch.frames]
    assert len(shapes) == 3 * 12
    assert {shape[0] for shape in shapes} == set(range(1, num_frames + 1))


def test_real_stills_become_batches(shared_data: Path) -> None:
    reading = read_frames(shared_data / "images", num_frames=2)
    # 60 + 13 unrelated stills, a scene each, and 7 pictures whose names count up, which are 6 windows of two.
    assert len(reading.scenes) == 60 + 13 + 6
    assert sum(len(scene.frames) == 1 for scene in reading.scenes) == 60 + 13
    data = BDDOIADataModule(Source("frames", str(shared_data / "images"), num_frames=1, image_size_px=320))
    data.setup()
    shapes = {tuple(frames.shape) for batch in data.predict_dataloader() for frames in batch.frames}
    assert shapes == {(1, 3, 320, 320), (1, 3, 180, 320)}


def test_the_rewards_split_of_the_papers_subset(scenes: list[Scene]) -> None:
    """1,400 / 200 / rest with seed 42, each with its share of every action, and budgets that lie within each other."""
    parts = split_scenes(Reading("gt_4a_21r", scenes), "reward", 42)
    assert {split: len(members) for split, members in parts.items()} == {"train": 1400, "val": 200, "test": 409}
    whole = [scene for members in parts.values() for scene in members]
    assert len({scene.id for scene in whole}) == len(whole) == 2009
    for index in range(len(BDD_OIA.action_names)):
        share = sum(scene.actions[index] for scene in whole if scene.actions) / len(whole)
        for members in parts.values():
            found = sum(scene.actions[index] for scene in members if scene.actions)
            assert abs(found - share * len(members)) <= 4
    budgets = [{scene.id for scene in seeded_subset(parts["train"], share, 42)} for share in (0.125, 0.25, 0.5, 1.0)]
    assert [len(budget) for budget in budgets] == [175, 350, 700, 1400]
    assert all(small < large for small, large in pairwise(budgets))


def shared_recordings(scenes: list[Scene], subset: Subset, seed: int) -> tuple[int, int]:
    """How many recordings are in two splits, and how many test scenes have one that was trained or selected on."""
    parts = split_scenes(Reading("gt_4a_21r", scenes), subset, seed)
    drives = {split: {recording_of_id(scene.id) for scene in members} for split, members in parts.items()}
    assert None not in set.union(*drives.values())
    shared = drives["train"] & drives["val"] | (drives["train"] | drives["val"]) & drives["test"]
    return len(shared), sum(recording_of_id(scene.id) in shared for scene in parts["test"])


@pytest.mark.parametrize(("seed", "shared", "tested"), [(0, 18, 15), (1, 15, 11), (42, 21, 15)])
def test_the_papers_split_leaks_and_the_grouped_one_does_not(
    scenes: list[Scene], seed: int, shared: int, tested: int
) -> None:
    """Of 1,974 recordings 35 have two scenes in the subset; the counts were made apart, by ``id[:8]``."""
    assert shared_recordings(scenes, "single", seed) == (shared, tested)
    assert shared_recordings(scenes, "grouped", seed) == (0, 0)


def test_the_releases_own_split_leaks(scenes: list[Scene]) -> None:
    assert shared_recordings(scenes, "all", 0) == (487, 351)


def test_the_releases_split_without_its_leaks_tests_on_the_same_scenes(scenes: list[Scene]) -> None:
    parts = split_scenes(Reading("gt_4a_21r", scenes), "apart", 0)
    assert parts["test"] == [scene for scene in scenes if scene.split == "test"]
    assert {split: len(members) for split, members in parts.items()} == {"train": 7358, "val": 1050, "test": 2236}
    assert shared_recordings(scenes, "apart", 0) == (0, 0)


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_the_grouped_split_has_the_papers_counts(scenes: list[Scene], seed: int) -> None:
    """Table 2: 41, 339, 12 and 11 test scenes; val ceil(rest / 10): 163/10, 1352/10, 48/10, 43/10."""
    parts = split_scenes(Reading("gt_4a_21r", scenes), "grouped", seed)
    found = {
        split: [sum(scene.actions[i] for scene in members if scene.actions) for i in range(len(BDD_OIA.action_names))]
        for split, members in parts.items()
    }
    assert found == {"train": [146, 1216, 43, 38], "val": [17, 136, 5, 5], "test": [41, 339, 12, 11]}
    assert split_scenes(Reading("gt_4a_21r", scenes[::-1]), "grouped", seed)["test"] == parts["test"][::-1]


def test_balanced_draws_of_the_papers_subset(scenes: list[Scene]) -> None:
    """84 % stop before, a quarter of every action after."""
    train = split_scenes(Reading("gt_4a_21r", scenes), "grouped", 0)["train"]
    actions = torch.tensor([scene.actions for scene in train], dtype=torch.float32)
    assert actions[:, STOP].mean().item() == pytest.approx(1216 / 1443)
    expected = scene_weights(train) @ actions / len(train)
    torch.testing.assert_close(expected, torch.full((4,), 0.25))
