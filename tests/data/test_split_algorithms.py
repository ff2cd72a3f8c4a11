import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import flags

from lvad.data.reading import Reading
from lvad.data.recordings import recording_of_id
from lvad.data.split_algorithms import (
    hold_out_sequences,
    hold_out_val,
    seeded_subset,
    split_grouped,
    split_scenes,
    split_single,
    stratified_permutation,
)
from lvad.errors import DataError
from lvad.types import Scene


def scenes(n: int, split: str = "train", actions: tuple[int, ...] = (0, 1, 0, 0)) -> list[Scene]:
    return [Scene(f"{''.join(map(str, actions))}-{i}", (), split, actions, tuple(flags(7))) for i in range(n)]


def ids(chosen: list[Scene]) -> set[str]:
    return {scene.id for scene in chosen}


def test_the_permutation_depends_on_seed_and_ids_alone() -> None:
    given_order = scenes(50)
    shuffled = random.Random(0).sample(given_order, 50)
    order = [given_order[i].id for i in stratified_permutation(given_order, 3)]
    assert order == [shuffled[i].id for i in stratified_permutation(shuffled, 3)]
    assert order != [given_order[i].id for i in stratified_permutation(given_order, 4)]
    # Leaving scenes out keeps the order of the rest.
    kept = given_order[:20]
    assert [kept[i].id for i in stratified_permutation(kept, 3)] == [name for name in order if name in ids(kept)]


@settings(database=None, derandomize=True)
@given(n=st.integers(0, 60), seed=st.integers(0, 5), data=st.data())
def test_subsets_are_nested_and_keep_the_order(n: int, seed: int, data: st.DataObject) -> None:
    pool = scenes(n)
    small = data.draw(st.integers(0, n))
    large = data.draw(st.integers(small, n))
    chosen, more = seeded_subset(pool, small, seed), seeded_subset(pool, large, seed)
    assert (len(chosen), len(more)) == (small, large)
    assert ids(chosen) <= ids(more)
    assert chosen == [scene for scene in pool if scene.id in ids(chosen)]


def test_every_beginning_holds_its_share_of_every_kind() -> None:
    pool = [
        *scenes(600),
        *scenes(200, actions=(1, 0, 0, 0)),
        *scenes(40, actions=(0, 0, 1, 0)),
        *scenes(1, actions=(1, 1, 0, 0)),
    ]
    for count in (50, 105, 210, 420):
        chosen = seeded_subset(pool, count, 3)
        for actions, total in (((0, 1, 0, 0), 600), ((1, 0, 0, 0), 200), ((0, 0, 1, 0), 40)):
            expected = total * count / len(pool)
            assert abs(sum(s.actions == actions for s in chosen) - expected) <= 1.5


def test_a_kind_with_a_single_scene_may_stand_anywhere() -> None:
    """Else rare kinds would all be in one half."""
    rare = [Scene(f"rare-{i}", (), "train", (0, 1, 0, 0), tuple(flags(7, i))) for i in range(8, 21)]
    places = [
        stratified_permutation([*scenes(50), *rare[i : i + 1]], seed).index(50) for i in range(13) for seed in range(20)
    ]
    assert 20 < sum(places) / len(places) < 30
    assert min(places) < 5
    assert max(places) > 45


def test_the_reward_split_is_1400_200_rest_and_70_10_20_of_fewer() -> None:
    pool = [*scenes(1700), *scenes(300, actions=(1, 0, 0, 0)), *scenes(9, actions=(0, 0, 1, 0))]
    parts = split_scenes(Reading("gt_4a_21r", pool), "reward", 42)
    assert {split: len(members) for split, members in parts.items()} == {"train": 1400, "val": 200, "test": 409}
    # 300 / 2009 of 200 are 29.9.
    assert sum(s.actions == (1, 0, 0, 0) for s in parts["val"]) in (29, 30, 31)
    few = split_scenes(Reading("gt_4a_21r", scenes(55)), "reward", 42)
    assert {split: len(members) for split, members in few.items()} == {"train": 38, "val": 5, "test": 12}
    assert split_scenes(Reading("gt_4a_21r", pool), "reward", 42) == parts
    assert ids(split_scenes(Reading("gt_4a_21r", pool), "reward", 43)["val"]) != ids(parts["val"])


def test_an_eighth_lies_within_a_quarter() -> None:
    pool = scenes(1606)
    eighth, quarter = seeded_subset(pool, 0.125, 0), seeded_subset(pool, 0.25, 0)
    # 1606 / 8 = 200.75 and 1606 / 4 = 401.5, rounded up.
    assert (len(eighth), len(quarter)) == (201, 402)
    assert ids(eighth) < ids(quarter)
    assert ids(seeded_subset(pool, 201, 1)) != ids(eighth)
    assert len(seeded_subset(scenes(10), 0.7, 0)) == 7
    assert seeded_subset(pool, None, 0) == pool
    assert seeded_subset(pool, 1.0, 0) == pool


@pytest.mark.parametrize(("amount", "message"), [(-1, "between 0 and the 5"), (6, "5 scenes there are, got 6")])
def test_counts_out_of_range(amount: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"num_scenes.train must be .*{message}"):
        seeded_subset(scenes(5), amount, 0, "num_scenes.train")


@pytest.mark.parametrize("amount", [0.0, -0.5, 1.5, float("nan"), float("inf")])
def test_shares_out_of_range(amount: float) -> None:
    with pytest.raises(ValueError, match=r"as a share must be in \(0, 1\]"):
        seeded_subset(scenes(5), amount, 0)


def test_one_one_keeps_single_labels_and_rounds_the_test_share_up() -> None:
    pool = [
        *scenes(10, "train"),
        *scenes(6, "test", (0, 0, 1, 0)),
        *scenes(3, "val", (1, 1, 0, 0)),
        Scene("two reasons", (), "train", (0, 1, 0, 0), tuple(flags(3, 7))),
        Scene("no labels", (), "train"),
    ]
    chosen = split_single(pool, seed=0)
    # 10 stops: ceil(2.0) = 2 for test; 6 lefts: ceil(1.2) = 2.
    parts = {(s.split, s.actions): 0 for s in chosen}
    for scene in chosen:
        parts[scene.split, scene.actions] += 1
    assert parts == {
        ("train", (0, 1, 0, 0)): 8,
        ("train", (0, 0, 1, 0)): 4,
        ("test", (0, 1, 0, 0)): 2,
        ("test", (0, 0, 1, 0)): 2,
    }
    assert split_single(pool, seed=0) == chosen
    assert split_single(pool, seed=1) != chosen
    with pytest.raises(DataError, match="exactly one action"):
        split_single(pool[16:], seed=0)


def test_recordings_are_told_by_the_first_half_of_the_id() -> None:
    assert recording_of_id("0001542f-ec815219") == recording_of_id("0001542f-00000000_3") == "0001542f"
    for other in ("0001542f", "0001542f-ec815219_", "0001542F-EC815219", "synthetic-1", "drive/0001542f-ec815219", ""):
        assert recording_of_id(other) is None


def cuts(sizes: list[int], actions: tuple[int, ...] = (0, 1, 0, 0), start: int = 0) -> list[Scene]:
    """Recordings of so many scenes."""
    return [
        Scene(f"{start + drive:08x}-{cut:08x}", (), ("train", "test")[cut % 2], actions, tuple(flags(7)))
        for drive, size in enumerate(sizes)
        for cut in range(size)
    ]


def parts_of(chosen: list[Scene]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for scene in chosen:
        found.setdefault(recording_of_id(scene.id) or scene.id, set()).add(scene.split)
    return found


def test_recordings_are_kept_whole_and_the_counts_are_those_of_the_other_split() -> None:
    pool = [*cuts([3] * 10 + [1] * 70), *cuts([2] * 2 + [1] * 16, (0, 0, 1, 0), start=500)]
    chosen = split_grouped(pool, 0)
    assert [scene.id for scene in chosen] == [scene.id for scene in pool]
    assert all(len(splits) == 1 for splits in parts_of(chosen).values())
    # 100 stops: 20, ceil(80 / 10) = 8, 72. 20 lefts: 4, ceil(16 / 10) = 2, 14.
    counts = {
        actions: [sum(s.split == split and s.actions == actions for s in chosen) for split in ("train", "val", "test")]
        for actions in ((0, 1, 0, 0), (0, 0, 1, 0))
    }
    assert counts == {(0, 1, 0, 0): [72, 8, 20], (0, 0, 1, 0): [14, 2, 4]}
    # The ten recordings of three scenes are spread in proportion, not all put into train.
    several = [splits for name, splits in parts_of(chosen).items() if int(name, 16) < 10]
    assert 1 <= several.count({"test"}) <= 3
    other = split_scenes(Reading("gt_4a_21r", pool), "single", 0)
    assert {split: len(members) for split, members in other.items()} == {"train": 86, "val": 10, "test": 24}
    assert any(len(splits) > 1 for splits in parts_of([s for members in other.values() for s in members]).values())


def test_a_recording_of_two_actions_is_kept_whole() -> None:
    mixed = [scene._replace(actions=((1, 0, 0, 0), (0, 1, 0, 0))[i % 2]) for i, scene in enumerate(cuts([2] * 30))]
    chosen = split_grouped(mixed, 0)
    assert all(len(splits) == 1 for splits in parts_of(chosen).values())
    # 30 of each action: 6, ceil(24 / 10) = 3, 21.
    assert [sum(s.split == split for s in chosen) for split in ("train", "val", "test")] == [42, 6, 12]


@settings(database=None, derandomize=True, max_examples=50)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=40), seed=st.integers(0, 5))
def test_no_recording_is_ever_in_two_parts_and_sizes_stay_near(sizes: list[int], seed: int) -> None:
    chosen = split_grouped(cuts(sizes), seed)
    assert all(len(splits) == 1 for splits in parts_of(chosen).values())
    assert sum(scene.split == "test" for scene in chosen) <= sum(sizes) / 5 + max(sizes)


def test_the_grouped_split_depends_on_seed_and_ids_alone() -> None:
    pool = cuts([2] * 20 + [1] * 60)
    shuffled = random.Random(0).sample(pool, len(pool))
    chosen = split_grouped(pool, 3)
    assert parts_of(chosen) == parts_of(split_grouped(shuffled, 3))
    assert parts_of(chosen) != parts_of(split_grouped(pool, 4))
    assert parts_of(split_grouped(scenes(20), 0)).keys() == ids(scenes(20))  # other ids stand for themselves
    with pytest.raises(DataError, match="exactly one action"):
        split_grouped([Scene("no labels", (), "train")], 0)


def test_a_set_too_small_for_a_grouped_validation_split_has_none() -> None:
    splits = split_scenes(Reading("gt_4a_21r", cuts([4])), "grouped", 0)
    assert sorted(len(members) for members in splits.values()) == [0, 0, 4]
    assert split_scenes(Reading("gt_4a_21r", cuts([1] * 20)), "grouped", 0)["val"] != []


def test_a_validation_split_is_carved_per_action() -> None:
    train, val = hold_out_val([*scenes(20), *scenes(11, actions=(0, 0, 1, 0)), *scenes(1, actions=(1, 1, 1, 1))], 0)
    # ceil(20 / 10) = 2, ceil(11 / 10) = 2, and the only one of its kind stays in train.
    assert sorted(sum(s.actions == a for s in val) for a in {s.actions for s in [*train, *val]}) == [0, 2, 2]
    assert len(train) == 28
    assert {scene.split for scene in val} == {"val"}
    assert not ids(train) & ids(val)


def test_sequences_are_held_out_whole() -> None:
    windows = [Scene(f"{drive}/{i}", (), "") for drive in "abcde" for i in range(5)]
    train, val = hold_out_sequences(windows, seed=0)
    # ceil(25 / 10) = 3 scenes: the end of one sequence.
    assert (len(train), len(val)) == (22, 3)
    assert len({scene.id[0] for scene in val}) == 1
    assert [scene.id[2:] for scene in val] == ["2", "3", "4"]
    assert ({s.split for s in train}, {s.split for s in val}) == ({"train"}, {"val"})
    assert hold_out_sequences(windows, seed=0) == (train, val)
    assert hold_out_sequences(windows[:1], seed=0)[1] == []


def test_arrange() -> None:
    labelled = [*scenes(20, "train"), *scenes(4, "test", (1, 0, 0, 0))]
    splits = split_scenes(Reading("gt_4a_21r", labelled), "all", 0)
    assert {split: len(members) for split, members in splits.items()} == {"train": 18, "val": 2, "test": 4}
    splits = split_scenes(Reading("gt_4a_21r", [*labelled, *scenes(3, "val")]), "all", 0)
    assert {split: len(members) for split, members in splits.items()} == {"train": 20, "val": 3, "test": 4}
    frames = Reading("frames", [Scene(str(i), (), "") for i in range(10)])
    assert {split: len(members) for split, members in split_scenes(frames, "all", 0).items()} == {
        "train": 9,
        "val": 1,
        "test": 0,
    }
    with pytest.raises(DataError, match="use subset=all"):
        split_scenes(frames, "single", 0)
