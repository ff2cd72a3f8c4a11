"""How a number on the command line is read where a whole one and a broken one mean different things."""

from typing import Any, Final

from jsonargparse import _typehints

_rank_of_type: Final = _typehints.union_subtype_sort_key


def count_before_share() -> None:
    """Read 1 as one and 1.0 as all, wherever a parameter is ``int | float``: one batch is not all batches.

    jsonargparse tries the types of a union in their order, and a float accepts 1 too. The order written is not always
    the order met: typing keeps unions and takes ``Optional[float | int]`` and ``Optional[int | float]`` for the same
    one, so that whichever is met first stands for both: in Lightning itself, under some versions of torch.
    """
    _typehints.union_subtype_sort_key = _rank


def _rank(subtype: Any) -> float:
    """Jsonargparse's own rank, with int before the types that are as strict, and bool before int, which accepts it."""
    return {bool: -1.0, int: -0.5}.get(subtype, _rank_of_type(subtype))
