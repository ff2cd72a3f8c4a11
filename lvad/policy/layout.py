"""Where ragged rows stand: all tokens in one flat row without padding, and grids for attention alone.

The text model's linear layers see one flat row of N real tokens, in the order scene, completion, token. Attention
needs the tokens of a scene side by side, so scenes whose prompts are equally long form a group, and the group's tokens
a grid [B, K, T], padded on the right only where completions differ in length. Rows go into the grid and back by
gathering, and each gather is the other's gradient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """The tokens of one group of scenes."""

    scenes: Tensor
    """int64[B] on the CPU, which scenes of the batch."""
    shape: tuple[int, int, int]
    """B scenes, K completions, T tokens."""
    rows: Tensor | None
    """int64[B K T], the flat row of each cell, 0 where there is none; None where cells and rows are the same."""
    is_padding: Tensor | None
    """bool[B K T]; None where no cell is padding."""


class Layout(NamedTuple):
    """Flat rows and the grids that hold them."""

    grids: tuple[Grid, ...]
    cells: Tensor | None
    """int64[N], the place of each row among the cells of all grids; None where cells and rows are the same."""

    def split(self, flat: Tensor, fill_zero: bool = False) -> list[Tensor]:
        """One [B K T, ...] per grid, from [N, ...]. Padding repeats some row, or is zero."""
        return [_into(grid, flat, fill_zero) for grid in self.grids]

    def split_scenes(self, flat: Tensor) -> list[Tensor]:
        """One [B, K T, ...] per grid, from [N, ...]."""
        return [part.unflatten(0, (grid.shape[0], -1)) for grid, part in zip(self.grids, self.split(flat), strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """[N, ...] from what ``split`` gives."""
        flat = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return flat if self.cells is None else flat.index_select(0, self.cells)


def _into(grid: Grid, flat: Tensor, fill_zero: bool) -> Tensor:
    if grid.rows is None:
        return flat
    cells = flat.index_select(0, grid.rows)
    if fill_zero and grid.is_padding is not None:
        cells[grid.is_padding] = 0
    return cells


def equal_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Scenes by the length of their prompts."""
    groups: dict[int, list[int]] = {}
    for scene, length in enumerate(lengths):
        groups.setdefault(length, []).append(scene)
    return list(groups.values())


def lay_out(is_token: Tensor, lengths: Sequence[int], among: Sequence[int] | None = None) -> Layout:
    """Grids for the True cells of bool[B, K, T], which are the flat rows in their order.

    Args:
        is_token: bool[B, K, T]; in each completion the True cells come first. One cell at least is True.
        lengths: B prompt lengths; scenes with equal ones share a grid.
        among: the scenes that get a place in a grid; None takes all. ``join`` is for layouts of all rows.
    """
    device, is_token = is_token.device, is_token.cpu()
    row_of_cell = is_token.flatten().cumsum(0).sub(1).clamp(min=0).view(is_token.shape)
    cells = torch.zeros(int(is_token.sum()), dtype=torch.long)
    grids, start = [], 0
    for group in equal_lengths(lengths):
        scenes = torch.tensor([scene for scene in group if among is None or scene in among], dtype=torch.long)
        if not len(scenes):
            continue
        depth = _size(is_token[scenes].any(2).any(0))
        width = _size(is_token[scenes].any(1).any(0))
        is_real = is_token[scenes, :depth, :width].flatten()
        rows = row_of_cell[scenes, :depth, :width].flatten()
        cells[rows[is_real]] = start + is_real.nonzero().squeeze(1)
        start += len(rows)
        is_padding = None if is_real.all() else ~is_real.to(device)
        grids.append(Grid(scenes, (len(scenes), depth, width), rows.to(device), is_padding))
    if len(grids) == 1 and torch.equal(cells, torch.arange(start)):
        return Layout((grids[0]._replace(rows=None),), None)
    return Layout(tuple(grids), cells.to(device))


def lay_out_prompts(lengths: Sequence[int], device: torch.device, among: Sequence[int] | None = None) -> Layout:
    """Grids for B prompts, one after the other; ``among`` as of ``lay_out``."""
    is_token = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return lay_out(is_token.unsqueeze(1).to(device), lengths, among)


def _size(is_used: Tensor) -> int:
    """How many places are needed to reach the last used one; at least 1."""
    return max([1, *(is_used.nonzero() + 1).flatten().tolist()])
