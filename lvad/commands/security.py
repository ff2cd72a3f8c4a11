"""What a configuration may import, and where it may send an API key.

A ``class_path`` outside ``TRUSTED_PACKAGES`` is named before it is imported, and refused with ``--safe``. This is no
sandbox: a configuration chooses among the classes of large libraries.
"""

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from lvad.commands.error_messages import innermost_message
from lvad.commands.global_options import GLOBAL_OPTIONS, KEY_HOST
from lvad.errors import DataError

T = TypeVar("T")
TRUSTED_PACKAGES: Final = ("lvad", "lightning", "torch", "torchmetrics", "transformers", "peft")
# Parts of these that load or run what they are given; no configuration of a training needs them.
DENIED_MODULES: Final = (
    *("torch.hub", "torch.load", "torch.serialization", "torch.package", "torch.jit", "torch.ops", "torch.classes"),
    *("torch.utils.cpp_extension", "torch.utils.model_zoo", "torch.utils.collect_env", "torch.distributed.run"),
    *("transformers.pipeline", "transformers.pipelines", "transformers.dynamic_module_utils", "transformers.commands"),
)
_ALLOWED_NAMES: Final[list[str]] = []
"""Names that an earlier configuration of this process asked for; jsonargparse keeps them as allowed."""
_DENIED: Final = re.compile(r"Importing '([\w.]+)' is not allowed, denied by the '([\w.*]+)' entry")


def parse_command_line(parser: ArgumentParser, args: list[str]) -> Namespace:
    """Parse a command line.

    Args:
        parser: made with ``exit_on_error=False``.
        args: of the command.

    Raises:
        ArgumentError: for what cannot be understood: one line, with what may have been meant.
    """
    try:
        return with_import_checks(lambda: parser.parse_args(args))
    except ArgumentError as error:
        raise ArgumentError(None, innermost_message(str(error), _option_names(parser, args))) from error


def with_import_checks(parse: Callable[[], T]) -> T:
    """Parse a configuration; each class outside ``TRUSTED_PACKAGES`` is named on the terminal before it is imported.

    Args:
        parse: called anew after each such name, with that one let through.

    Raises:
        ArgumentError: as ``parse`` does; with ``--safe`` for any such name, and always for one that runs programs,
            opens files or connections (``os``, ``subprocess``, ``builtins.exec``, ...).
    """
    denied_again = _ALLOWED_NAMES if GLOBAL_OPTIONS.safe else []
    set_parsing_settings(
        import_path_denylist=["*", *DENIED_MODULES, *denied_again], import_path_allowlist=list(TRUSTED_PACKAGES)
    )
    if not GLOBAL_OPTIONS.safe and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file of this folder hides no library
    said: set[tuple[str, str]] = set()  # a class has a second name where it is defined
    while True:
        try:
            return parse()
        except ArgumentError as error:
            denied = _DENIED.search(str(error))
            if denied is None:
                raise
            name, entry = denied.groups()
            if GLOBAL_OPTIONS.safe or entry not in ("*", *_ALLOWED_NAMES):
                raise ArgumentError(None, _import_refusal(name, entry)) from error
            if (key := (name.partition(".")[0], name.rpartition(".")[2])) not in said:
                said.add(key)
                _print_to_stderr(
                    f"a configuration asks for {name}, which is not of lvad or its libraries: its code runs here"
                )
            _ALLOWED_NAMES.append(name)
            set_parsing_settings(import_path_allowlist=[name])


def confirm_api_keys(config: Any) -> None:
    """Ask before a configuration may send a key to a host; a host of this machine needs no consent.

    Args:
        config: parsed, before anything of it is built.

    Raises:
        DataError: for a host that was not agreed to.
    """
    for variable, host in dict.fromkeys(api_keys_sent(config)):
        if host in ("localhost", "127.0.0.1", "::1") or (host in GLOBAL_OPTIONS.key_hosts and not GLOBAL_OPTIONS.safe):
            continue
        asked = f"a configuration sends the key in ${variable} to {host}"
        if GLOBAL_OPTIONS.safe:
            raise DataError(f"{asked}, which --safe refuses")
        if not sys.stdin.isatty() or input(f"lvad: {asked}. Send it? [y/N] ").strip().lower() not in ("y", "yes"):
            raise DataError(
                f"{asked}: not agreed to; if it is right, add {KEY_HOST} {host} to the command line, or to key_hosts"
            )
        GLOBAL_OPTIONS.key_hosts.append(host)


def api_keys_sent(config: Any) -> Iterator[tuple[str, str]]:
    """List the environment variables whose values a configuration sends to a host, each with the host."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, Mapping):
        if config.get("api_key_env") and config.get("url"):
            yield str(config["api_key_env"]), str(urlsplit(str(config["url"])).hostname)
        config = list(config.values())
    if isinstance(config, list | tuple):
        for part in config:
            yield from api_keys_sent(part)


def _import_refusal(name: str, entry: str) -> str:
    why = (
        "--safe imports only" if entry in ("*", *_ALLOWED_NAMES) else "it can run any program; a configuration may name"
    )
    return f"a configuration asks for {name}, which is refused: {why} {', '.join(TRUSTED_PACKAGES)}"


def _print_to_stderr(text: str) -> None:
    print(f"lvad: {text}", file=sys.stderr)  # audit --json prints its JSON alone


def _option_names(parser: ArgumentParser, args: list[str]) -> list[str]:
    """List the names of a parser's options, with those of the given subcommand."""
    found: list[str] = []
    for action in parser._actions:
        choices = action.choices
        if isinstance(choices, Mapping):
            found += [name for arg in args[:1] if arg in choices for name in _option_names(choices[arg], args[1:])]
        found += [option.removeprefix("--") for option in action.option_strings]
    return found
