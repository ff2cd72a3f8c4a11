"""Every error class of lvad. Each message names what is wrong and the remedy; ``lvad`` prints it as one line."""

from pathlib import Path
from typing import Final, Literal, Self

Then = Literal["retry", "next", "stop"]
"""What to do about a prompt without a reply: ask again, take the next one, or stop."""
_MAX_MESSAGE_CHARS: Final = 2000
MOVED: Final = {
    "lvad.answers.Description": "lvad.answers.DescriptionOptions",
    "lvad.modules.AverageWeights": "lvad.callbacks.AverageWeights",
    "lvad.modules.Controls": "lvad.objectives.Regularisation",
    "lvad.modules.FixMatch": "lvad.objectives.FixMatch",
    "lvad.modules.KL": "lvad.objectives.KL",
    "lvad.modules.KLRate": "lvad.callbacks.KLRate",
    "lvad.modules.MinimumRisk": "lvad.objectives.MinimumRiskBLEU",
    "lvad.modules.PseudoLabels": "lvad.answers.PseudoLabels",
    "lvad.modules.Rehearsal": "lvad.objectives.Rehearsal",
    "lvad.modules.Voting": "lvad.answers.Voting",
    "lvad.modules.objectives": "lvad.objectives",
    "lvad.policy.Images": "lvad.policy.ImageOptions",
}
"""Names that an earlier configuration or program may use, with the present ones."""


def no_attribute(module: str, name: str) -> AttributeError:
    """Make the error of a module that lacks a name; it says what a moved one is called now."""
    path = f"{module}.{name}"
    if path in MOVED:
        return AttributeError(f"{path} is now {MOVED[path]}: write that in the configuration")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


class DataError(ValueError):
    """Data on disk that cannot be used: names the file, the row and the remedy.

    It takes one message and nothing else: a DataLoader worker's exception is rebuilt from its message. The message is
    one line that every terminal can print, whatever the file says.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    @classmethod
    def at(cls, path: Path | str, row: str, problem: str, remedy: str) -> Self:
        """Build the message from its four parts; ``row`` is empty where the whole file is meant."""
        where = f"{path}, {row}" if row else str(path)
        return cls(f"{where}: {problem}; {remedy}")


class RewardRefused(ValueError):
    """A reward that cannot tell right from wrong; training on it would teach whatever it likes instead."""


class BrokenReward(ValueError):
    """A reward is nan or infinite."""


class JudgeError(RuntimeError):
    """The judge gave no verdict on a completion."""


class ChatError(RuntimeError):
    """A prompt without a usable reply: what happened, and what to do about it.

    Args:
        cause: what happened; never holds the key.
        remedy: what to do.
        then: ``retry`` the prompt, take the ``next`` one, or ``stop``, where no prompt will do better.
        wait_s: how long the server asked to wait before a retry; None for the usual pause.
    """

    def __init__(self, cause: str, remedy: str, then: Then = "retry", wait_s: float | None = None) -> None:
        super().__init__(f"{cause}; {remedy}")
        self.cause, self.remedy, self.wait_s = cause, remedy, wait_s
        self.then: Then = then


class DoesNotFit(RuntimeError):
    """The worst batch needs more memory than there is."""


class OtherRankFailed(RuntimeError):
    """Another process ended with an error."""


def one_line(text: str) -> str:
    """Printable and of bearable length; text that is both stays as it is, so that errors can quote errors."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
    if len(text) <= _MAX_MESSAGE_CHARS:
        return text
    half = _MAX_MESSAGE_CHARS // 2 - len(" ... ")
    return f"{text[:half]} ... {text[-half:]}"
