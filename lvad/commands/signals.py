"""SIGTERM and Ctrl-C: a fit finishes its step and writes a checkpoint, any other command ends at once.

This module imports nothing heavy, so that it works before the libraries are loaded.
"""

import contextlib
import os
import shlex
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_DEFERRED: Final = "\nlvad: {}: finishing this step, then writing last.ckpt (Ctrl-C ends at once)\n"


class Stopped(SystemExit):
    """A signal ended the command; ``code`` is what a shell calls it, 143 for SIGTERM and 130 for Ctrl-C."""


class StopSignals:
    """The received signal, and whether the command may defer its end until a checkpoint is written.

    A context manager: within it the process listens, unless it is not the main thread, or the signal is ignored (as
    under ``nohup``).
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The first signal that the process received."""
        self.checkpoint: Path | None = None
        """The checkpoint that a fit can resume from."""
        self.step = 0
        """Optimizer steps of that checkpoint."""
        self.ckpt_path: str | None = None
        """Its name for ``--ckpt_path``; None takes its path."""
        self.is_child = False
        """True in a process that another process of the same fit has started; that one prints the message."""
        self._is_deferring = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in _SIGNALS}
            self._previous = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
            self._install_handlers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @property
    def code(self) -> int:
        """The exit code after a signal; 0 without one."""
        return 0 if self.received is None or self.is_child else 128 + self.received

    def defer(self) -> None:
        """Store further signals for the training loop to obey; a second Ctrl-C still ends the command at once."""
        self._is_deferring = True
        # Alone: Lightning's own handler for SIGTERM talks to other devices in the midst of their work.
        self._install_handlers()

    def stop_deferring(self) -> None:
        """Let further signals end the command at once."""
        self._is_deferring = False

    def exit_message(self, command: Sequence[str]) -> str:
        """Write in one line what ended the command, and the command that resumes it.

        Args:
            command: what was typed after ``lvad``.
        """
        name = signal.Signals(self.received or signal.SIGTERM).name
        if command[:1] != ["fit"]:
            return f"stopped by {name}"
        if self.checkpoint is None:
            return f"stopped by {name} before its first checkpoint; to start anew: {shlex.join(['lvad', *command])}"
        name_of_it = self.ckpt_path or str(self.checkpoint)
        again = shlex.join(["lvad", *_without_checkpoint_option(command), "--ckpt_path", name_of_it])
        return f"stopped by {name}; {self.checkpoint} is of step {self.step}; to go on: {again}"

    def _install_handlers(self) -> None:
        for number in self._previous:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second, self.received = self.received is not None, self.received or signal.Signals(number)
        if not self._is_deferring or (is_second and number == signal.SIGINT):
            raise Stopped(self.code)
        if not is_second and not self.is_child:
            with contextlib.suppress(OSError):  # not print(), which may be at work
                os.write(2, _DEFERRED.format(signal.Signals(number).name).encode())


def _without_checkpoint_option(command: Sequence[str]) -> list[str]:
    kept, is_value = [], False
    for word in command:
        if not is_value and word != "--ckpt_path" and not word.startswith("--ckpt_path="):
            kept.append(word)
        is_value = word == "--ckpt_path"
    return kept
