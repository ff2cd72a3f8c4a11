"""How a value below ``init_args`` reaches its class when it stands on the command line."""

import json
from typing import Any, Final

from jsonargparse import Namespace, _typehints
from jsonargparse._util import NestedArg

_adapt_class_type: Final = _typehints.adapt_class_type


def keep_null() -> None:
    """Let ``--model.init_args.policy.init_args.lora null`` be null, alone and in a list or an object.

    jsonargparse reads such a value, and hands it to the parser of the class as Python writes it: null as ``None``,
    which that parser takes for a text. It is handed on as JSON here.
    """
    _typehints.adapt_class_type = _adapt


def _adapt(value: Any, *args: Any, **kwargs: Any) -> Any:
    init_args = value.get("init_args") if isinstance(value, Namespace) else None
    if isinstance(init_args, NestedArg) and not isinstance(init_args.val, str):
        text = json.dumps(init_args.val, ensure_ascii=False, default=str)  # a date, as it was typed
        value["init_args"] = init_args._replace(val=text)
    return _adapt_class_type(value, *args, **kwargs)
