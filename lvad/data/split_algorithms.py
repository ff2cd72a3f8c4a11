"""Split scenes into train, val and test: every choice is a prefix of one seeded, stratified permutation.

A scene's place depends on the seed, its id and the scenes with equal labels, not on the order of the files. So
subsets are nested (an eighth lies within a quarter), and each holds its share of every kind of scene.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Final, Literal

from lvad.data.reading import SPLITS, Reading
from lvad.data.recordings import recording_of
from lvad.errors import DataError
from lvad.types import Scene

TEST_SHARE: Final = Fraction(1, 5)
"""Test share of the one-action-one-reason subset: the paper splits 8:2 (Appendix A)."""
VAL_SHARE: Final = Fraction(1, 10)
"""Share of the training scenes that validate where a source has no validation split."""
REWARD_COUNTS: Final = (1400, 200, 400)
"""Training, validation and test scenes of the reward model (Appendix B.3)."""

Subset = Literal["all", "apart", "single", "grouped", "reward"]


def is_labelled(scenes: Sequence[Scene]) -> list[bool]:
    """Whether each scene has labels; where no scene has any, a scene with a text counts as labelled."""
    found = [scene.actions is not None or scene.reasons is not None for scene in scenes]
    return found if any(found) else [bool(scene.captions) for scene in scenes]


def stratified_permutation(scenes: Sequence[Scene], seed: int) -> list[int]:
    """Return the scenes' indices in a random order that the seed and their ids fix, stratified by their labels.

    Every prefix of the order holds nearly its share of every kind of scene: equal actions, and equal reasons where
    there is a single one. Member i of n of a kind stands at (i + u) / n of the way, u by its own hash.
    """
    ranks = [_rank(scene.split, scene.id, seed) for scene in scenes]
    kinds: dict[object, list[int]] = {}
    for i in sorted(range(len(scenes)), key=ranks.__getitem__):
        kinds.setdefault(_kind(scenes[i]), []).append(i)
    place = {
        i: (position + Fraction(int.from_bytes(ranks[i][:8]), 1 << 64)) / len(members)
        for members in kinds.values()
        for position, i in enumerate(members)
    }
    return sorted(place, key=place.__getitem__)


def _kind(scene: Scene) -> object:
    return scene.actions, scene.reasons if scene.reasons and sum(scene.reasons) == 1 else None


def _rank(split: str, name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{split}/{name}".encode()).digest()


def seeded_subset(scenes: Sequence[Scene], amount: int | float | None, seed: int, what: str = "amount") -> list[Scene]:
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
    return [scenes[i] for i in sorted(stratified_permutation(scenes, seed)[:count])]


def split_single(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """Return the paper's subset: one action and one reason, all splits merged, 8:2 per action.

    The test share is rounded up. On the real ``gt_4a_21r`` files these are 2,009 scenes: 1,606 for training,
    and 41, 339, 12 and 11 of the four actions for test.

    Raises:
        DataError: if no scene has exactly one action and one reason.
    """
    merged = _one_one(scenes)
    train, test = _split_off(merged, TEST_SHARE, seed)
    return [s._replace(split="train") for s in train] + [s._replace(split="test") for s in test]


def _one_one(scenes: Sequence[Scene]) -> list[Scene]:
    merged = [s for s in scenes if s.actions and s.reasons and sum(s.actions) == 1 and sum(s.reasons) == 1]
    if not merged:
        raise DataError("no scene has exactly one action and one reason; use subset=all")
    return merged


def split_reward(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """Return the one-action-one-reason scenes split 1,400 / 200 / rest, stratified (Appendix B.3).

    On the real ``gt_4a_21r`` files the rest is 409; the paper names 400 and counts 407. Fewer than 2,000 scenes are
    split 70 / 10 / 20.

    Raises:
        DataError: if no scene has exactly one action and one reason.
    """
    merged = _one_one(scenes)
    num_train, num_val, _ = REWARD_COUNTS
    if len(merged) < (total := sum(REWARD_COUNTS)):
        num_train, num_val = (len(merged) * count // total for count in (num_train, num_val))
    order = stratified_permutation(merged, seed)
    split = {i: "train" if n < num_train else "val" if n < num_train + num_val else "test" for n, i in enumerate(order)}
    return [scene._replace(split=split[i]) for i, scene in enumerate(merged)]


def split_grouped(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """Return the paper's subset split as in ``split_single`` and ``hold_out_val``, but no recording into two parts.

    Neighbouring cuts of one drive look alike, so a test scene whose neighbour was trained on is no test. Train, val and
    test have a quota of every action, the counts that the other split gives. Recordings are placed whole, those of
    most scenes first, each where the largest share of the quota then stays open; so those of several scenes are spread
    in proportion, and single scenes fill what is left. Ids that name no recording are recordings of their own.

    Raises:
        DataError: if no scene has exactly one action and one reason.
    """
    merged = _one_one(scenes)
    groups: dict[str, list[int]] = {}
    for i in stratified_permutation(merged, seed):
        groups.setdefault(recording_of(merged[i]), []).append(i)
    quota = {kind: _quota(count) for kind, count in Counter(scene.actions for scene in merged).items()}
    left = {kind: dict(parts) for kind, parts in quota.items()}
    placed: dict[int, str] = {}
    for group in sorted(groups.values(), key=len, reverse=True):
        needed = Counter(merged[i].actions for i in group)
        split = max(
            SPLITS,
            key=lambda name: min((left[kind][name] - n) / max(1, quota[kind][name]) for kind, n in needed.items()),
        )
        for i in group:
            left[merged[i].actions][split] -= 1
            placed[i] = split
    return [scene._replace(split=placed[i]) for i, scene in enumerate(merged)]


def remove_leakage(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """Return the source's own splits without leakage: no recording of a test scene trains or validates.

    No recording of a validation scene trains either. All test scenes are kept, so scores are those of the release's
    test split.
    Of the real ``gt_4a_21r`` files 7,946 / 1,117 / 2,236 scenes become 7,358 / 1,050 / 2,236. The seed chooses nothing.
    """
    recordings = {split: {recording_of(s) for s in scenes if s.split == split} for split in SPLITS}
    taken = {"train": recordings["val"] | recordings["test"], "val": recordings["test"]}
    return [s for s in scenes if recording_of(s) not in taken.get(s.split, ())]


def split_by_recording(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """Split labelled scenes of which none names a split: a fifth tests, a tenth of the rest validates.

    Recordings stay whole: one that is too large for what is left of both shares trains, as scenes without labels do.
    """
    labelled = [i for i, known in enumerate(is_labelled(scenes)) if known]
    groups: dict[str, list[int]] = {}
    for i in stratified_permutation([scenes[i] for i in labelled], seed):
        groups.setdefault(recording_of(scenes[labelled[i]]), []).append(labelled[i])
    left = _quota(len(labelled))
    placed = dict.fromkeys(range(len(scenes)), "train")
    for group in groups.values():
        if split := next((name for name in ("test", "val") if len(group) <= left[name]), None):
            left[split] -= len(group)
            placed.update(dict.fromkeys(group, split))
    return [scene._replace(split=placed[i]) for i, scene in enumerate(scenes)]


def _quota(count: int) -> dict[str, int]:
    """How many of ``count`` scenes each split gets, shares rounded up as in ``_split_off``."""
    test = math.ceil(TEST_SHARE * count)
    val = min(math.ceil(VAL_SHARE * (count - test)), max(0, count - test - 1))
    return {"train": count - test - val, "val": val, "test": test}


def hold_out_val(train: Sequence[Scene], seed: int) -> tuple[list[Scene], list[Scene]]:
    """Hold out a validation split of the labelled train scenes, the same share of every set of actions.

    Scenes without labels stay, unless there are no others.
    """
    labelled = [scene for scene, known in zip(train, is_labelled(train), strict=True) if known]
    _, val = _split_off(labelled or train, VAL_SHARE, seed, num_kept=1)
    chosen = {scene.id for scene in val}
    return [scene for scene in train if scene.id not in chosen], [scene._replace(split="val") for scene in val]


def _split_off(
    scenes: Sequence[Scene], share: Fraction, seed: int, num_kept: int = 0
) -> tuple[list[Scene], list[Scene]]:
    """Return the rest, and ``ceil(share * n)`` of each group of n scenes with equal actions, in the given order.

    ``num_kept`` of every group stay in the rest whatever the share.
    """
    groups: dict[tuple[int, ...] | None, list[int]] = {}
    for i in stratified_permutation(scenes, seed):
        groups.setdefault(scenes[i].actions, []).append(i)
    chosen: set[int] = set()
    for group in groups.values():
        chosen.update(group[: min(math.ceil(share * len(group)), len(group) - num_kept)])
    rest = [scene for i, scene in enumerate(scenes) if i not in chosen]
    return rest, [scenes[i] for i in sorted(chosen)]


def hold_out_sequences(scenes: Sequence[Scene], seed: int) -> tuple[list[Scene], list[Scene]]:
    """Hold out a validation split of scenes without labels.

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


def split_scenes(reading: Reading, subset: Subset, seed: int) -> dict[str, list[Scene]]:
    """Sort a source's scenes into train, val and test; a missing val is held out of train.

    Where none names a split, labelled scenes are split anew, and of others a validation split is held out.

    Args:
        reading: what a reader found.
        subset: every scene ("apart" leaves out training scenes whose recording is tested), or the paper's
            one-action-one-reason scenes, split anew for the policy ("single"; "grouped" keeps recordings whole) or for
            the reward model ("reward").
        seed: of every choice made here.

    Raises:
        DataError: for a subset of scenes without labels, or where it is empty.
    """
    scenes = reading.scenes
    is_split = any(scene.split for scene in scenes)
    if scenes and not is_split:
        if not any(is_labelled(scenes)):
            if subset != "all":
                raise DataError("scenes without labels have no one-action-one-reason subset; use subset=all")
            train, val = hold_out_sequences(scenes, seed)
            return {"train": train, "val": val, "test": []}
        scenes = split_by_recording(scenes, seed)
    splitters = {"apart": remove_leakage, "single": split_single, "grouped": split_grouped, "reward": split_reward}
    splitter = splitters.get(subset)
    scenes = splitter(scenes, seed) if splitter else scenes
    splits = {split: [scene for scene in scenes if scene.split == split] for split in SPLITS}
    keeps_recordings = subset in ("grouped", "apart") or (subset == "all" and not is_split)
    if not splits["val"] and not keeps_recordings:  # holding out would not
        splits["train"], splits["val"] = hold_out_val(splits["train"], seed)
    return splits
