"""Which scenes train, validate and test: every choice is a seeded permutation by hash.

A scene's place in the permutation depends on the seed, its split and its id alone, not on the order of the
files nor on the other scenes. So subsets are nested: an eighth lies within a quarter.
"""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final, Literal

from lvad.data.records import SPLITS, DataError, Reading
from lvad.types import Scene

TEST_SHARE: Final = Fraction(1, 5)
"""Of the one-action-one-reason subset: the paper splits 8:2 (Appendix A)."""
VAL_SHARE: Final = Fraction(1, 10)
"""Carved out of train where a source has no validation split."""


def permutation(scenes: Sequence[Scene], seed: int) -> list[int]:
    """Return the scenes' indices in a random order that the seed and their ids fix."""
    return sorted(range(len(scenes)), key=lambda i: _rank(scenes[i].split, scenes[i].id, seed))


def _rank(split: str, name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{split}/{name}".encode()).digest()


def take(scenes: Sequence[Scene], amount: int | float | None, seed: int, what: str = "amount") -> list[Scene]:
    """Return a seeded subset, in the order of ``scenes``; a smaller one lies within every larger one.

    Args:
        scenes: the scenes to choose from.
        amount: an int is a count, a float in (0, 1] a share (rounded up), None is all.
        seed: which permutation.
        what: name of the parameter, for messages.

    Raises:
        DataError: for a negative count, a share out of range, or more scenes than there are.
    """
    if amount is None:
        return list(scenes)
    if isinstance(amount, float) and not 0 < amount <= 1:
        raise DataError(f"{what} as a share must be in (0, 1], got {amount}")
    count = math.ceil(Fraction(str(amount)) * len(scenes)) if isinstance(amount, float) else amount
    if not 0 <= count <= len(scenes):
        raise DataError(f"{what} must be between 0 and the {len(scenes)} scenes there are, got {amount}")
    return [scenes[i] for i in sorted(permutation(scenes, seed)[:count])]


def split_one_one(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """Return the paper's subset: one action and one reason, all splits merged, 8:2 per action.

    The test share is rounded up. On the real ``gt_4a_21r`` files these are 2,009 scenes: 1,606 for training,
    and 41, 339, 12 and 11 of the four actions for test.

    Raises:
        DataError: if no scene has exactly one action and one reason.
    """
    merged = [s for s in scenes if s.actions and s.reasons and sum(s.actions) == 1 and sum(s.reasons) == 1]
    if not merged:
        raise DataError("no scene has exactly one action and one reason; use subset=all")
    train, test = _divide(merged, TEST_SHARE, seed)
    return [s._replace(split="train") for s in train] + [s._replace(split="test") for s in test]


def carve_val(train: Sequence[Scene], seed: int) -> tuple[list[Scene], list[Scene]]:
    """Part a validation split from labelled train scenes, the same share of every set of actions."""
    kept, val = _divide(train, VAL_SHARE, seed, num_kept=1)
    return kept, [scene._replace(split="val") for scene in val]


def _divide(scenes: Sequence[Scene], share: Fraction, seed: int, num_kept: int = 0) -> tuple[list[Scene], list[Scene]]:
    """The rest, and ``ceil(share * n)`` of each group of n scenes with equal actions; the given order is kept.

    ``num_kept`` of every group stay in the rest whatever the share.
    """
    groups: dict[tuple[int, ...] | None, list[int]] = {}
    for i in permutation(scenes, seed):
        groups.setdefault(scenes[i].actions, []).append(i)
    chosen: set[int] = set()
    for group in groups.values():
        chosen.update(group[: min(math.ceil(share * len(group)), len(group) - num_kept)])
    rest = [scene for i, scene in enumerate(scenes) if i not in chosen]
    return rest, [scenes[i] for i in sorted(chosen)]


def hold_out(scenes: Sequence[Scene], seed: int) -> tuple[list[Scene], list[Scene]]:
    """Part a validation split from scenes without labels.

    Neighbouring windows share frames, so whole sequences are held out in a seeded order, and of the one where
    the share ends its last windows. A single scene is kept for training.

    Returns:
        The train scenes and the val scenes, with those splits.
    """
    ordered = sorted(scenes, key=lambda scene: _rank("", scene.id.rpartition("/")[0], seed))
    count = min(math.ceil(VAL_SHARE * len(scenes)), len(scenes) - 1)
    cut = len(scenes) - count
    return (
        [scene._replace(split="train") for scene in ordered[:cut]],
        [scene._replace(split="val") for scene in ordered[cut:]],
    )


def arrange(reading: Reading, subset: Literal["all", "single"], seed: int) -> dict[str, list[Scene]]:
    """Sort a source's scenes into train, val and test; a missing val is parted from train.

    Args:
        reading: what a reader found.
        subset: every scene, or the paper's one-action-one-reason scenes, split anew.
        seed: of every choice made here.

    Raises:
        DataError: for the single subset of scenes without labels, or where it is empty.
    """
    if reading.format == "frames":
        if subset == "single":
            raise DataError("scenes without labels have no one-action-one-reason subset; use subset=all")
        train, val = hold_out(reading.scenes, seed)
        return {"train": train, "val": val, "test": []}
    scenes = split_one_one(reading.scenes, seed) if subset == "single" else reading.scenes
    splits = {split: [scene for scene in scenes if scene.split == split] for split in SPLITS}
    if not splits["val"]:
        splits["train"], splits["val"] = carve_val(splits["train"], seed)
    return splits
