"""Two patches of ``jsonargparse._typehints``, for numbers and nulls on the command line."""

import json
from typing import Any, Final

from jsonargparse import Namespace, _typehints
from jsonargparse._util import NestedArg

_rank_of_type: Final = _typehints.union_subtype_sort_key
_adapt_class_type: Final = _typehints.adapt_class_type


def prefer_int_to_float() -> None:
    """Read 1 as one and 1.0 as all, wherever a parameter is ``int | float``: one batch is not all batches.

    jsonargparse tries the types of a union in their order, and a float accepts 1 too. The order written is not always
    the order met: typing keeps unions and takes ``Optional[float | int]`` and ``Optional[int | float]`` for the same
    one, so that whichever is met first stands for both: in Lightning itself, under some versions of torch.
    """
    _typehints.union_subtype_sort_key = _rank_int_first


def pass_null_to_classes() -> None:
    """Let ``--model.init_args.policy.init_args.lora null`` be null, alone and in a list or an object.

    jsonargparse reads such a value, and hands it to the parser of the class as Python writes it: null as ``None``,
    which that parser takes for a text. It is handed on as JSON here.
    """
    _typehints.adapt_class_type = _adapt_nested_values


def _rank_int_first(subtype: Any) -> float:
    """Return jsonargparse's own rank, with int before equally strict types, and bool before int, which takes bools."""
    return {bool: -1.0, int: -0.5}.get(subtype, _rank_of_type(subtype))


def _adapt_nested_values(value: Any, *args: Any, **kwargs: Any) -> Any:
    init_args = value.get("init_args") if isinstance(value, Namespace) else None
    if isinstance(init_args, NestedArg) and not isinstance(init_args.val, str):
        text = json.dumps(init_args.val, ensure_ascii=False, default=str)  # a date, as it was typed
        value["init_args"] = init_args._replace(val=text)
    return _adapt_class_type(value, *args, **kwargs)
