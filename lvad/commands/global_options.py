"""The options that every command takes, before or after its own: debug, safe and key hosts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

KEY_HOST: Final = "--key_host"


@dataclass
class GlobalOptions:
    """The global options of this process.

    Attributes:
        debug: let an error through with its traceback, instead of saying it in one line.
        safe: import nothing that a configuration names outside ``security.TRUSTED_PACKAGES``, and send no key.
        key_hosts: hosts that may be sent the key of a judge without asking.
    """

    debug: bool = False
    safe: bool = False
    key_hosts: list[str] = field(default_factory=list)


GLOBAL_OPTIONS: Final = GlobalOptions()


def parse_global_options(args: list[str]) -> list[str]:
    """Set ``GLOBAL_OPTIONS`` from the arguments, and return the other arguments in order."""
    GLOBAL_OPTIONS.debug, GLOBAL_OPTIONS.safe, GLOBAL_OPTIONS.key_hosts = "--debug" in args, "--safe" in args, []
    rest: list[str] = []
    waiting = iter(args)
    for arg in waiting:
        if arg == KEY_HOST:
            GLOBAL_OPTIONS.key_hosts += [host for host in [next(waiting, None)] if host is not None]
        elif arg.startswith(f"{KEY_HOST}="):
            GLOBAL_OPTIONS.key_hosts.append(arg.partition("=")[2])
        elif arg not in ("--debug", "--safe"):
            rest.append(arg)
    return rest


@contextmanager
def override_global_options(safe: bool, key_hosts: Sequence[str]) -> Iterator[None]:
    """Add global options inside a block.

    Args:
        safe: as for ``GlobalOptions``; where it is set already, it stays.
        key_hosts: further hosts, as for ``GlobalOptions``.
    """
    before = GLOBAL_OPTIONS.safe, GLOBAL_OPTIONS.key_hosts
    GLOBAL_OPTIONS.safe, GLOBAL_OPTIONS.key_hosts = GLOBAL_OPTIONS.safe or safe, [*GLOBAL_OPTIONS.key_hosts, *key_hosts]
    try:
        yield
    finally:
        GLOBAL_OPTIONS.safe, GLOBAL_OPTIONS.key_hosts = before


def global_option_args() -> list[str]:
    """Return the global options as arguments, for a command that starts another one."""
    named = [arg for host in GLOBAL_OPTIONS.key_hosts for arg in (KEY_HOST, host)]
    return [*["--debug"] * GLOBAL_OPTIONS.debug, *["--safe"] * GLOBAL_OPTIONS.safe, *named]
