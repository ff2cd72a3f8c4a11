"""Several processes as one."""

import math

import pytest
import torch

from lvad.errors import OtherRankFailed
from lvad.metrics.description import DescriptionScore
from lvad.ranks import SceneRows, gather, mean_over_ranks, num_ranks, together
from lvad.types import Rollouts, Scores

NUM_RANKS, CPU = 2, torch.device("cpu")


def describe(rank):
    """Eight scenes on two ranks, all described alike, of which a loader repeats the first."""
    metric = DescriptionScore()
    ids = [f"s{i}" for i in range(rank, 8, NUM_RANKS)] + ["s0"]
    mask = torch.ones(len(ids), 1, 1, dtype=torch.bool)
    zeros = torch.zeros(mask.shape)
    rollouts = Rollouts(zeros.long(), mask, zeros, zeros, torch.zeros(len(ids), 1).bool(), [["a car"]] * len(ids))
    total = torch.tensor([[float(name[1:])] for name in ids])
    metric.update(ids, rollouts, Scores(total, {}), [None] * len(ids))
    return {name: value.item() for name, value in metric.compute().items()}


def fail(rank):
    """What a call ends with that breaks on the second rank."""

    def call():
        if rank == 1:
            raise ValueError("the judge is broken")
        return "fine"

    try:
        return together(call)
    except (ValueError, OtherRankFailed) as error:
        return f"{type(error).__name__}: {error}"


def work(rank, store, queue):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=NUM_RANKS)
    rows = SceneRows()
    # Five scenes, dealt out in turn; the second rank gets the first scene again, so that both have three.
    rows.add(["a", "c", "e"] if rank == 0 else ["b", "d", "a"], [0, 2, 4] if rank == 0 else [1, 3, 9])
    values = {"mean": torch.tensor(float(rank)), "one has it": torch.tensor([torch.nan, 3.0][rank])}
    values["nobody has it"] = torch.tensor(torch.nan)
    found = {
        "rows": rows.gathered(),
        "empty": SceneRows().gathered(),
        "mean": {name: value.item() for name, value in mean_over_ranks(values, CPU, skip_nan=True).items()},
        "plain": mean_over_ranks(values, CPU)["one has it"].item(),
        "described": describe(rank),
        "fine": together(lambda: rank),
        "broken": fail(rank),
        "gathered": gather(rank),
    }
    queue.put((rank, found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    context, store = torch.multiprocessing.get_context("spawn"), tmp_path_factory.mktemp("ranks") / "store"
    queue = context.SimpleQueue()
    ranks = [context.Process(target=work, args=(rank, store, queue)) for rank in range(NUM_RANKS)]
    for rank in ranks:
        rank.start()
    found = dict(queue.get() for _ in ranks)
    for rank in ranks:
        rank.join()
    return [found[rank] for rank in range(NUM_RANKS)]


@pytest.mark.slow
def test_rows_come_in_the_order_of_one_rank_and_each_scene_once(found):
    assert [rank["rows"] for rank in found] == [[0, 1, 2, 3, 4]] * NUM_RANKS
    assert [rank["empty"] for rank in found] == [[]] * NUM_RANKS
    assert [rank["gathered"] for rank in found] == [[0, 1]] * NUM_RANKS


@pytest.mark.slow
def test_different_texts_are_counted_over_all_ranks(found):
    """One text of eight scenes is 0.125; each rank by itself, of four, would say 0.25. The rewards are 0 to 7."""
    for rank in found:
        assert rank["described"] == {"reward": 3.5, "length": 1.0, "truncated": 0.0, "distinct": 0.125}


@pytest.mark.slow
def test_values_of_a_step_are_means_over_the_ranks_that_have_one(found):
    for rank in found:
        assert {name: value for name, value in rank["mean"].items() if value == value} == {"mean": 0.5, "one has it": 3}
        assert math.isnan(rank["mean"]["nobody has it"])
        assert math.isnan(rank["plain"])  # a NaN that stands for nothing else is seen


@pytest.mark.slow
def test_what_breaks_on_one_rank_ends_them_all(found):
    assert [rank["fine"] for rank in found] == [0, 1]
    assert found[0]["broken"] == "OtherRankFailed: rank 1 failed: ValueError: the judge is broken"
    assert found[1]["broken"] == "ValueError: the judge is broken"


def test_one_process_needs_no_exchange():
    assert num_ranks() == 1
    assert gather("x") == ["x"]
    assert together(lambda: 3) == 3
    values = {"nan": torch.tensor(torch.nan)}
    assert mean_over_ranks(values, CPU) is values
    with pytest.raises(ValueError, match="broken"):
        together(lambda: (_ for _ in ()).throw(ValueError("broken")))
