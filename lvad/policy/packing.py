"""Index maps between packed tokens and padded grids [B, K, T].

The text model's linear layers see packed tokens: N real tokens in a row without padding, in the order scene,
completion, token. Attention needs the tokens of a scene side by side. So scenes whose prompts are equally long form a
group, and the tokens of a group form a grid [B, K, T], padded on the right where completions differ in length. Both
ways are a gather, and the gradient of each gather is the other one.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """The padded grid of one group of scenes."""

    scenes: Tensor
    """int64[B] on the CPU, the indices of its scenes in the batch."""
    shape: tuple[int, int, int]
    """B scenes, K completions, T tokens."""
    token_index: Tensor | None
    """int64[B K T], the packed token of each cell, 0 in padding; None where cells and packed tokens are the same."""
    is_padding: Tensor | None
    """bool[B K T]; None where no cell is padding."""


class Packing(NamedTuple):
    """The grids of packed tokens, and the way back."""

    grids: tuple[Grid, ...]
    cell_index: Tensor | None
    """int64[N], the cell of each packed token, counted over all grids; None where cells and tokens are the same."""

    def to_grids(self, packed: Tensor, fill_zero: bool = False) -> list[Tensor]:
        """Gather [N, ...] into one [B K T, ...] per grid. Padding is zero or repeats the first token."""
        return [_to_grid(grid, packed, fill_zero) for grid in self.grids]

    def to_scene_grids(self, packed: Tensor) -> list[Tensor]:
        """Gather [N, ...] into one [B, K T, ...] per grid."""
        cells = zip(self.grids, self.to_grids(packed), strict=True)
        return [part.unflatten(0, (grid.shape[0], -1)) for grid, part in cells]

    def from_grids(self, parts: Sequence[Tensor]) -> Tensor:
        """Gather the cells of all grids, as ``to_grids`` returns them, back into [N, ...]."""
        cells = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return cells if self.cell_index is None else cells.index_select(0, self.cell_index)


def _to_grid(grid: Grid, packed: Tensor, fill_zero: bool) -> Tensor:
    if grid.token_index is None:
        return packed
    cells = packed.index_select(0, grid.token_index)
    if not fill_zero or grid.is_padding is None:
        return cells
    return cells.masked_fill_(grid.is_padding.view(-1, *[1] * (cells.dim() - 1)), 0)


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Group scenes with prompts of equal length."""
    groups: dict[int, list[int]] = {}
    for scene, length in enumerate(lengths):
        groups.setdefault(length, []).append(scene)
    return list(groups.values())


def completion_packing(
    counts: Sequence[Sequence[int]], lengths: Sequence[int], device: torch.device, among: Sequence[int] | None = None
) -> Packing:
    """Compute the grids of B times K packed completions.

    The indices are computed on the host and copied to the device without waiting. The last results are cached, because
    all passes of a step, those of the reference included, need the same ones.

    Args:
        counts: B times K numbers of tokens, of which at least one is not 0.
        lengths: B prompt lengths; scenes with equal ones share a grid.
        device: of the packed tokens.
        among: the scenes that get a place in a grid; None takes all. ``from_grids`` needs all of them.
    """
    rows = tuple(tuple(row) for row in counts)
    return _completion_packing(rows, tuple(lengths), device, None if among is None else tuple(among))


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # an index that is cached during validation must still be usable in training
def _completion_packing(
    counts: tuple[tuple[int, ...], ...], lengths: tuple[int, ...], device: torch.device, among: tuple[int, ...] | None
) -> Packing:
    sizes = torch.tensor(counts)
    firsts = (sizes.flatten().cumsum(0) - sizes.flatten()).view(sizes.shape)
    cell_index = torch.zeros(int(sizes.sum()), dtype=torch.long)
    grids, start = [], 0
    for group in group_by_length(lengths):
        scenes = torch.tensor([scene for scene in group if among is None or scene in among], dtype=torch.long)
        if not len(scenes):
            continue
        # Trailing completions without tokens get no cells: `Decoder` lists unfinished completions first.
        depth = int((sizes[scenes].amax(0) > 0).nonzero().amax()) + 1 if sizes[scenes].any() else 1
        places = torch.arange(max(1, int(sizes[scenes].amax())))
        is_real = places < sizes[scenes, :depth, None]
        token_index = (firsts[scenes, :depth, None] + places).where(is_real, 0)
        cell_index[token_index[is_real]] = start + is_real.flatten().nonzero().squeeze(1)
        start += token_index.numel()
        is_padding = None if is_real.all() else upload(~is_real.flatten(), device)
        shape = (len(scenes), depth, len(places))
        grids.append(Grid(scenes, shape, upload(token_index.flatten(), device), is_padding))
    if len(grids) == 1 and torch.equal(cell_index, torch.arange(start)):
        return Packing((grids[0]._replace(token_index=None),), None)
    return Packing(tuple(grids), upload(cell_index, device))


def prompt_packing(lengths: Sequence[int], device: torch.device, among: Sequence[int] | None = None) -> Packing:
    """Compute the grids of B packed prompts, one row each; ``among`` as in ``completion_packing``."""
    return completion_packing([[length] for length in lengths], lengths, device, among)


def token_counts(completion_mask: Tensor) -> list[list[int]]:
    """Count the tokens of B times K completions, which come first in each: one read from the device."""
    return completion_mask.sum(-1).tolist()


def token_cells(counts: Sequence[Sequence[int]], width: int) -> Tensor:
    """int64[N] on the CPU: the cells of N packed tokens among B x K x ``width`` cells."""
    return (torch.arange(width) < torch.tensor(counts).unsqueeze(-1)).flatten().nonzero().squeeze(1)


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device, without waiting for what the device still has to do."""
    return values.to(device, non_blocking=True)
