"""Where ragged rows stand: all tokens in one flat row without padding, and grids for attention alone.

The text model's linear layers see one flat row of N real tokens, in the order scene, completion, token. Attention
needs the tokens of a scene side by side, so scenes whose prompts are equally long form a group, and the group's tokens
a grid [B, K, T], padded on the right only where completions differ in length. Rows go into the grid and back by
gathering, and each gather is the other's gradient.
"""

from collections.abc import Sequence
from functools import lru_cache
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
    if not fill_zero or grid.is_padding is None:
        return cells
    return cells.masked_fill_(grid.is_padding.view(-1, *[1] * (cells.dim() - 1)), 0)


def equal_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Scenes by the length of their prompts."""
    groups: dict[int, list[int]] = {}
    for scene, length in enumerate(lengths):
        groups.setdefault(length, []).append(scene)
    return list(groups.values())


def lay_out(
    counts: Sequence[Sequence[int]], lengths: Sequence[int], device: torch.device, among: Sequence[int] | None = None
) -> Layout:
    """Grids for the tokens of B times K completions, which are the flat rows in the order scene, completion, token.

    The indices are computed on the host and copied to the device, which nobody waits for. The last layouts are kept:
    the passes of a step, and of its reference, have them in common.

    Args:
        counts: B times K numbers of tokens, of which one at least is not 0.
        lengths: B prompt lengths; scenes with equal ones share a grid.
        device: of the rows.
        among: the scenes that get a place in a grid; None takes all. ``join`` is for layouts of all rows.
    """
    rows = tuple(tuple(row) for row in counts)
    return _lay_out(rows, tuple(lengths), device, None if among is None else tuple(among))


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # validation's tensors could not be used in training
def _lay_out(
    counts: tuple[tuple[int, ...], ...], lengths: tuple[int, ...], device: torch.device, among: tuple[int, ...] | None
) -> Layout:
    sizes = torch.tensor(counts)
    firsts = (sizes.flatten().cumsum(0) - sizes.flatten()).view(sizes.shape)
    cells = torch.zeros(int(sizes.sum()), dtype=torch.long)
    grids, start = [], 0
    for group in equal_lengths(lengths):
        scenes = torch.tensor([scene for scene in group if among is None or scene in among], dtype=torch.long)
        if not len(scenes):
            continue
        depth = int((sizes[scenes].amax(0) > 0).nonzero().amax()) + 1 if sizes[scenes].any() else 1
        places = torch.arange(max(1, int(sizes[scenes].amax())))
        is_real = places < sizes[scenes, :depth, None]
        rows = (firsts[scenes, :depth, None] + places).where(is_real, 0)
        cells[rows[is_real]] = start + is_real.flatten().nonzero().squeeze(1)
        start += rows.numel()
        is_padding = None if is_real.all() else upload(~is_real.flatten(), device)
        grids.append(Grid(scenes, (len(scenes), depth, len(places)), upload(rows.flatten(), device), is_padding))
    if len(grids) == 1 and torch.equal(cells, torch.arange(start)):
        return Layout((grids[0]._replace(rows=None),), None)
    return Layout(tuple(grids), upload(cells, device))


def lay_out_prompts(lengths: Sequence[int], device: torch.device, among: Sequence[int] | None = None) -> Layout:
    """Grids for B prompts, one after the other; ``among`` as of ``lay_out``."""
    return lay_out([[length] for length in lengths], lengths, device, among)


def token_counts(completion_mask: Tensor) -> list[list[int]]:
    """B times K numbers of True cells, which come first in each completion: one read from the device."""
    return completion_mask.sum(-1).tolist()


def token_cells(counts: Sequence[Sequence[int]], width: int) -> Tensor:
    """int64[N] on the CPU: the places of N tokens, in the order of the flat rows, among B x K x ``width`` cells."""
    return (torch.arange(width) < torch.tensor(counts).unsqueeze(-1)).flatten().nonzero().squeeze(1)


def upload(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for what the device still has to do."""
    return values.to(device, non_blocking=True)
