"""Packed tokens and padded grids, worked by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvad.policy.packing import completion_packing, group_by_length, token_counts


def packing_of(is_token, lengths, among=None):
    return completion_packing(token_counts(is_token), lengths, is_token.device, among)


def test_equal_completions_of_equal_prompts_need_no_index():
    packing = packing_of(torch.ones(2, 3, 4, dtype=torch.bool), [7, 7])
    (grid,) = packing.grids
    assert (grid.shape, grid.token_index, grid.is_padding, packing.cell_index) == ((2, 3, 4), None, None, None)


def test_a_ragged_group_by_hand():
    # Scene 0: completions of 2 and 0 tokens; scene 1: of 1 and 1. Packed: 0 1 | - | 2 | 3.
    is_token = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [1, 0]]]).bool()
    packing = packing_of(is_token, [5, 5])
    (grid,) = packing.grids
    assert grid.shape == (2, 2, 2)
    assert (~grid.is_padding).tolist() == [True, True, False, False, True, False, True, False]
    assert grid.token_index[~grid.is_padding].tolist() == [0, 1, 2, 3]
    assert packing.cell_index.tolist() == [0, 1, 4, 6]
    zeros = packing.to_grids(torch.arange(1.0, 5), fill_zero=True)[0]
    assert zeros.tolist() == [1, 2, 0, 0, 3, 0, 4, 0]


def test_prompts_of_different_lengths_have_grids_of_their_own():
    packing = packing_of(torch.ones(3, 1, 2, dtype=torch.bool), [4, 9, 4])
    first, second = packing.to_grids(torch.arange(6))
    assert [grid.scenes.tolist() for grid in packing.grids] == [[0, 2], [1]]
    assert (first.tolist(), second.tolist()) == ([0, 1, 4, 5], [2, 3])
    assert group_by_length([4, 9, 4]) == [[0, 2], [1]]


def test_a_completion_without_tokens_keeps_its_place_between_others():
    is_token = torch.tensor([[[0], [1]], [[1], [0]]]).bool()
    (grid,) = packing_of(is_token, [3, 3]).grids
    assert grid.shape == (2, 2, 1)
    assert (~grid.is_padding).tolist() == [False, True, True, False]


def test_scenes_left_out_have_no_cell():
    packing = packing_of(torch.ones(3, 1, 2, dtype=torch.bool), [2, 2, 2], among=[0, 2])
    (grid,) = packing.grids
    assert grid.scenes.tolist() == [0, 2]
    assert packing.to_scene_grids(torch.arange(6))[0].tolist() == [[0, 1], [4, 5]]


@given(st.data())
def test_from_grids_undoes_to_grids(data):
    scenes, completions, tokens = (data.draw(st.integers(1, 4)) for _ in range(3))
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=scenes, max_size=scenes))
    sizes = data.draw(st.lists(st.integers(0, tokens), min_size=scenes * completions, max_size=scenes * completions))
    is_token = torch.arange(tokens) < torch.tensor(sizes).view(scenes, completions, 1)
    if not is_token.any():
        return
    packing = packing_of(is_token, lengths)
    packed = torch.arange(1, int(is_token.sum()) + 1)
    assert packing.from_grids(packing.to_grids(packed)).tolist() == packed.tolist()
    # Every row is in one real cell, and padding is zero where that is asked for.
    cells = torch.cat(packing.to_grids(packed, fill_zero=True))
    assert sorted(cells[cells > 0].tolist()) == packed.tolist()


@pytest.mark.parametrize("lengths", [[2], [2, 3, 2]])
def test_to_grids_and_from_grids_are_each_others_transpose(lengths):
    torch.manual_seed(0)
    is_token = torch.rand(len(lengths), 2, 3).sort(2, descending=True).values > 0.4
    is_token[0, 0, 0] = True
    packing = packing_of(is_token, lengths)
    packed = torch.rand(int(is_token.sum()), dtype=torch.float64)
    cells = [torch.rand_like(part) for part in packing.to_grids(packed)]
    inside = sum((a * b).sum() for a, b in zip(packing.to_grids(packed, fill_zero=True), cells, strict=True))
    assert torch.isclose(inside, (packed * packing.from_grids(cells)).sum())
