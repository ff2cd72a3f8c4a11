"""The flags that every command takes, before or behind its own options: they say how lvad runs, not what."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

KEY_HOST: Final = "--key_host"


@dataclass
class Flags:
    """How this process runs.

    Attributes:
        debug: let an error through with its traceback, instead of saying it in one line.
        safe: import nothing that a configuration names outside ``trust.KNOWN``, and send no key.
        key_hosts: hosts that may be sent the key of a judge without asking.
    """

    debug: bool = False
    safe: bool = False
    key_hosts: list[str] = field(default_factory=list)


FLAGS: Final = Flags()


def take_flags(args: list[str]) -> list[str]:
    """Set ``FLAGS`` by the arguments; returns the others, in order."""
    FLAGS.debug, FLAGS.safe, FLAGS.key_hosts = "--debug" in args, "--safe" in args, []
    rest: list[str] = []
    waiting = iter(args)
    for arg in waiting:
        if arg == KEY_HOST:
            FLAGS.key_hosts += [host for host in [next(waiting, None)] if host is not None]
        elif arg.startswith(f"{KEY_HOST}="):
            FLAGS.key_hosts.append(arg.partition("=")[2])
        elif arg not in ("--debug", "--safe"):
            rest.append(arg)
    return rest


@contextmanager
def with_flags(safe: bool, key_hosts: Sequence[str]) -> Iterator[None]:
    """Add to the flags for the time of a block.

    Args:
        safe: as of ``Flags``; where it is set already, it stays.
        key_hosts: further hosts, as of ``Flags``.
    """
    before = FLAGS.safe, FLAGS.key_hosts
    FLAGS.safe, FLAGS.key_hosts = FLAGS.safe or safe, [*FLAGS.key_hosts, *key_hosts]
    try:
        yield
    finally:
        FLAGS.safe, FLAGS.key_hosts = before


def given_flags() -> list[str]:
    """The flags as they are typed, for a command that starts another one."""
    named = [arg for host in FLAGS.key_hosts for arg in (KEY_HOST, host)]
    return [*["--debug"] * FLAGS.debug, *["--safe"] * FLAGS.safe, *named]
