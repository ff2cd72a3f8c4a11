"""Error messages for the user: one line that names the file, key or class to correct."""

import difflib
import functools
import importlib
import inspect
import re
import sys
import types
import typing
from argparse import ArgumentError
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, ParamSpec

from lvad.commands.global_options import GLOBAL_OPTIONS
from lvad.errors import MOVED, no_attribute

P = ParamSpec("P")
MAX_CHARS: Final = 600

_USER_ERRORS: Final = (ValueError, OSError, RuntimeError, ImportError, MemoryError)
_USER_ERRORS_BY_NAME: Final = ("MisconfigurationException", "SafetensorError")  # their libraries take seconds to import
_PROGRAMMING_ERRORS: Final = (NotImplementedError, RecursionError)  # RuntimeErrors that no user can mend
_KEY: Final = re.compile(r'Parser key "([^"]*)":? *(.*)')
_CLASS: Final = re.compile(r"Problem with given class_path '([^']*)':$")
# What jsonargparse says around the sentence that matters, and the alternative of every optional value.
_WRAPPING: Final = re.compile(
    r"(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type: |Given value: "
    r"|(- )?Expected a <class 'NoneType'>|Expected a path but .* either not accessible or invalid)"
)
_UNKNOWN: Final = re.compile(r"(?:(?:Group|Subcommand) '(?P<of>[^']*)' does not accept option|Option) '(?P<key>[^']*)'")
_NO_ATTRIBUTE: Final = re.compile(r"module '([^']*)' has no attribute '([^']*)'")
_NO_CLASS_PATH: Final = re.compile(r"Expected a dot import path string: (\S+)")
_NO_PROTOCOL: Final = re.compile(r"Import path (\S+) does not implement protocol (\w+)")


# What libraries refuse without saying what helps here.
_REMEDIES: Final = (
    ("No supported gpu backend", "torch finds no GPU here: leave out accelerator gpu, and configs/strategy/qlora.yaml"),
    ("weight type .* should be the same", "take --trainer.precision bf16-mixed, which leaves weights in 32 bits"),
    ("Early stopping conditioned on", "let the run reach a validation: more steps, or a lower val_check_interval"),
    ("enable_checkpointing=False", "leave it true: the result of a run is its best checkpoint"),
    ("No space left on device", "make room on the disk; a fit goes on with --ckpt_path last"),
    ("Not a directory|File exists", "name another folder, or move the file away"),
)


class _Leaf(NamedTuple):
    """An innermost sentence of a nested message, with the keys and classes around it."""

    depth: int
    text: str
    keys: list[str]
    classes: list[str]


def report_user_errors(command: Callable[P, int]) -> Callable[P, int]:
    """End a command with one line where a user can correct the error: exit code 1, or 2 for its command line.

    Other errors (TypeError, KeyError, ...) are lvad's own faults and keep their traceback, as all do with ``--debug``.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except ArgumentError as error:
            if GLOBAL_OPTIONS.debug:
                raise
            print(f"lvad: error: {innermost_message(str(error))}", file=sys.stderr)
            raise SystemExit(2) from error
        except Exception as error:
            if GLOBAL_OPTIONS.debug or not is_user_error(error):
                raise
            print(f"lvad: error: {error_line(error)}", file=sys.stderr)
            return 1

    return wrapper


def is_user_error(error: BaseException) -> bool:
    """Whether a user can correct an error: files, values, libraries, memory, use of Lightning."""
    is_theirs = type(error).__name__ in _USER_ERRORS_BY_NAME
    return is_theirs or (isinstance(error, _USER_ERRORS) and not isinstance(error, _PROGRAMMING_ERRORS))


def error_line(error: BaseException) -> str:
    """Write an error in one line; where it does not come from lvad, say how to learn more."""
    if isinstance(error, FileNotFoundError) or _is_raised_by_lvad(error):
        return " ".join(str(error).split())  # whole: the remedy stands at its end
    text = innermost_message(str(error)) or type(error).__name__
    remedy = next((f"; {helps}" for pattern, helps in _REMEDIES if re.search(pattern, text)), "")
    traceback = next((note for note in getattr(error, "__notes__", []) if note.startswith("traceback: ")), "")
    return f"{text}{remedy} ({type(error).__name__}; {traceback or 'lvad --debug shows where'})"


def _is_raised_by_lvad(error: BaseException) -> bool:
    """Whether lvad itself raised the error: such messages hold the remedy."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return "lvad" in (raised_in.partition(".")[0], type(error).__module__.partition(".")[0])


def innermost_message(message: str, known: Iterable[str] = ()) -> str:
    """Find the sentence of a nested message that says what is wrong, and put its key before it.

    Args:
        message: of jsonargparse, or any other, which is only put into one line and shortened.
        known: names of the options, for what is meant by an unknown one.
    """
    leaves = _leaves(message)
    if not leaves:
        return _shorten(message)
    leaf = max(leaves, key=lambda leaf: leaf.depth)  # the first of the deepest
    alternatives = [other.text for other in leaves if other.depth == leaf.depth and other.keys == leaf.keys]
    text = _plain_english(leaf.text if len(alternatives) == 1 else " or ".join(dict.fromkeys(alternatives)), message)
    where = ".".join(leaf.keys)
    return _shorten(f"{where}: {text}" if where else text) + _suggestion(leaf, known)


def _leaves(message: str) -> list[_Leaf]:
    """Split a nested message of jsonargparse into its innermost sentences; a message of another form has none."""
    is_nested = _KEY.match(message) or message.startswith(("Does not validate", "Problem with given", "Group '"))
    if not is_nested and not _UNKNOWN.match(message) and not message.startswith("unrecognized arguments"):
        return []
    open_keys: list[tuple[int, str, bool]] = []
    leaves = []
    for line in filter(str.strip, message.splitlines()):  # an empty line would seem to end all keys
        text = line.strip().removeprefix("- ")
        depth = len(line) - len(line.lstrip(" -"))
        open_keys = [entry for entry in open_keys if entry[0] < depth]
        key, found = _KEY.match(text), _CLASS.match(text)
        if key:
            open_keys.append((depth, key[1], True))
            text = key[2]
        elif found:
            open_keys.append((depth, found[1], False))
            text = ""
        if text and not _WRAPPING.match(text):
            keys = [name for _, name, is_key in open_keys if is_key]
            leaves.append(_Leaf(depth, text, keys, [name for _, name, is_key in open_keys if not is_key]))
    return leaves


def _plain_english(text: str, message: str) -> str:
    """Rewrite a sentence of jsonargparse without Python's type names."""
    text = re.sub(r"Expected an? (?:<class ')?(?:\w+\.)*(\w+)(?:'>)?( or |, got |\. Got |$)", r"must be \1\2", text)
    text = re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"must be one of \1", text)
    text = _NO_CLASS_PATH.sub(r"must be the full path of a class, got \1", text)
    text = re.sub(r"Type typing\.Callable.* expects a function or a callable class: ", "", text)
    text = text.replace(" or must be one of ", ", ").replace(" or must be ", " or ")
    text = re.sub(r"\. Got value: ", ", got ", text)
    given = re.search(r"^ *Given value: (.*)$", message, re.MULTILINE)
    if text.startswith("must be") and ", got " not in text and given:
        text = f"{text}, got {given[1]}"
    text = re.sub(r"Subcommand '\w+' does not accept option '([^']*)'", r"Option '\1' is not accepted", text)
    if found := _NO_PROTOCOL.search(text):
        return f"{found[1]} is no {found[2]}: {_protocol_methods(found[2])}"
    return text


def _protocol_methods(name: str) -> str:
    """Write the signatures of the methods of one of lvad's protocols."""
    from lvad import types as protocols  # heavy, and loaded where a protocol was refused

    kind = getattr(protocols, name, None)
    methods = [value for key, value in vars(kind).items() if inspect.isfunction(value) and key[0] != "_"]
    signatures = [f"def {method.__name__}{_signature(method)}" for method in methods]
    return f"it must be a class with `{'`, `'.join(signatures)}` and these names and types (see lvad.types.{name})"


def _signature(method: types.FunctionType) -> str:
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", str(inspect.signature(method))).replace("'", "")


def _suggestion(leaf: _Leaf, known: Iterable[str]) -> str:
    """Suggest the name that may have been meant."""
    if found := _NO_CLASS_PATH.search(leaf.text):
        return _full_class_path(found[1])
    if found := _NO_ATTRIBUTE.search(leaf.text):
        return _closest_match(found[2], dir(sys.modules.get(found[1])))
    if leaf.text.startswith("unrecognized arguments: "):
        given = leaf.text.removeprefix("unrecognized arguments: ").split()[0]
        return _closest_match(given.partition("=")[0], [f"--{name}" for name in known])
    found = _UNKNOWN.match(leaf.text)
    if not found:
        return ""
    key = found["key"]
    if not leaf.classes:
        first = key.partition(".")[0]
        close = _closest_match(key, known)
        return close or _closest_match(first, {name.partition(".")[0] for name in known})
    return _closest_match(key, _parameters(leaf.classes[-1], found["of"]))


def _full_class_path(name: str) -> str:
    """Name the class of lvad that a bare name may mean: one that had the name earlier, has it now, or a similar one."""
    importlib.import_module("lvad.modules")  # heavy, and loaded where a class of a stage was refused
    for path in MOVED:
        if path.rpartition(".")[2] == name:
            return f"; {no_attribute(*path.rsplit('.', 1))}"
    rooms = [room for key, room in sys.modules.items() if re.fullmatch(r"lvad\.\w+", key) and hasattr(room, "__all__")]
    paths = {f"{room.__name__}.{known}": known for room in rooms for known in room.__all__}
    close = difflib.get_close_matches(name, list(paths.values()), 1)
    meant = sorted(repr(path) for path, known in paths.items() if known in close)
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def _closest_match(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _parameters(class_path: str, group: str | None) -> list[str]:
    """List the parameters of an imported class, or of the class of one of its parameters."""
    module, _, name = class_path.rpartition(".")
    kind: Any = getattr(sys.modules.get(module), name, None)
    if kind is None:
        return []
    if group:
        annotation = typing.get_type_hints(kind.__init__).get(group)
        kinds = [part for part in (typing.get_args(annotation) or (annotation,)) if inspect.isclass(part)]
        kind = kinds[0] if kinds else kind
    return [parameter for parameter in inspect.signature(kind).parameters if parameter != "self"]


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARS else f"{line[:MAX_CHARS]} ..."
