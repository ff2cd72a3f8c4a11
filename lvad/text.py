"""The texts of all stages: the prompts, and the conversion of labels to answers and of answers to labels.

The answer format is the paper's (section 6.1), "Action: stop. Reason: traffic light is not green.", with
commas between several actions or reasons and ``none`` for an empty set.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from lvad.taxonomy import BDD_OIA, NONE, Taxonomy

_ANSWER = re.compile(
    r"\s*action:\s*(?P<actions>[^.]*)\.?(?:\s*reason:\s*(?P<reasons>[^.]*)\.?)?(?P<rest>.*)", re.I | re.S
)
# Sides, but not the "right" of "right ahead", which is no side.
_SIDE = re.compile(r"\b(left|right)\b(?! (?:ahead|away|behind|in front|now|of way))", re.I)


@dataclass(frozen=True)
class Prompts:
    """The prompts of the policy, the same in training, evaluation and inference.

    Args:
        describe: prompt of stage 1. The paper gave no prompt there, and its policy drifted into captions (section 6.3).
        decide: prompt of stage 2, in the paper's words (section 4), after the description; {actions} is replaced by the
            names that the label set gives its actions in a question.
    """

    describe: str = "Describe the driving scene."
    decide: str = "Based on the caption and image, what is the next action: <{actions}>?"

    def question(self, taxonomy: Taxonomy) -> str:
        """Return the prompt of stage 2 with the actions of a label set."""
        return self.decide.replace("{actions}", taxonomy.question)


class Flaw(Enum):
    """The faults that an answer can have."""

    NO_ACTION = "no 'Action:' part"
    EMPTY_ACTION = "empty action part"
    UNKNOWN_ACTION = "unknown action"
    NO_REASON = "no 'Reason:' part"
    EMPTY_REASON = "empty reason part"
    UNKNOWN_REASON = "unknown reason"
    REPEATED = "label named twice"
    NONE_WITH_OTHERS = "'none' beside other labels"
    TRAILING_TEXT = "text after the answer"


class Problem(NamedTuple):
    """One flaw of an answer, and the words that show it."""

    flaw: Flaw
    words: str


class Answer(NamedTuple):
    """The labels that a text names, and the flaws of the text."""

    actions: tuple[int, ...]
    """A zeros and ones."""
    reasons: tuple[int, ...]
    """R zeros and ones."""
    problems: tuple[Problem, ...]

    @property
    def is_valid(self) -> bool:
        """Whether the answer has no flaw."""
        return not self.problems


def _names(flags: Sequence[int], names: Sequence[str], what: str) -> str:
    if len(flags) != len(names):
        raise ValueError(f"{what} must have {len(names)} entries, got {len(flags)}")
    return ", ".join(name for name, flag in zip(names, flags, strict=True) if flag) or NONE


def render(actions: Sequence[int], reasons: Sequence[int] | None = None, taxonomy: Taxonomy = BDD_OIA) -> str:
    """Write labels as an answer.

    Args:
        actions: A zeros and ones.
        reasons: R zeros and ones; None leaves the reason part out (the target of stage 2).
        taxonomy: the label set.

    Raises:
        ValueError: for a vector of another length.
    """
    text = f"Action: {_names(actions, taxonomy.action_names, 'actions')}."
    return text if reasons is None else f"{text} Reason: {_names(reasons, taxonomy.reason_texts, 'reasons')}."


class _Part(NamedTuple):
    flags: tuple[int, ...]
    problems: list[Problem]


def _read_part(
    words: str, names: Sequence[str], empty: Flaw, unknown: Flaw, aliases: Mapping[str, str] = MappingProxyType({})
) -> _Part:
    flags, problems = [0] * len(names), []
    items = [" ".join(item.lower().split()) for item in words.split(",") if item.strip()]
    if not items:
        return _Part(tuple(flags), [Problem(empty, words.strip())])
    for item in items:
        name = aliases.get(item, item)
        if name == NONE:
            if len(items) > 1:
                problems.append(Problem(Flaw.NONE_WITH_OTHERS, words.strip()))
        elif name not in names:
            problems.append(Problem(unknown, item))
        elif flags[names.index(name)]:
            problems.append(Problem(Flaw.REPEATED, item))
        else:
            flags[names.index(name)] = 1
    return _Part(tuple(flags), problems)


def parse(text: str, taxonomy: Taxonomy = BDD_OIA) -> Answer:
    """Parse an answer. It never raises: flaws are part of the result.

    Case and spacing are free, and the aliases of actions ("turn left") are understood. ``parse(render(x))`` is ``x``
    for every set of labels.

    Args:
        text: any text.
        taxonomy: the label set.
    """
    match = _ANSWER.match(text)
    if match is None:
        nothing = (0,) * taxonomy.num_actions, (0,) * taxonomy.num_reasons
        return Answer(*nothing, (Problem(Flaw.NO_ACTION, text.strip()[:80]),))
    actions = _read_part(
        match["actions"],
        taxonomy.action_names,
        Flaw.EMPTY_ACTION,
        Flaw.UNKNOWN_ACTION,
        taxonomy.action_aliases,
    )
    if match["reasons"] is None:
        reasons = _Part((0,) * taxonomy.num_reasons, [Problem(Flaw.NO_REASON, "")])
    else:
        reasons = _read_part(match["reasons"], taxonomy.reason_texts, Flaw.EMPTY_REASON, Flaw.UNKNOWN_REASON)
    problems = [*actions.problems, *reasons.problems]
    if rest := match["rest"].strip():
        problems.append(Problem(Flaw.TRAILING_TEXT, rest[:80]))
    return Answer(actions.flags, reasons.flags, tuple(problems))


def mirror_text(text: str) -> str:
    """Exchange left and right, as a horizontal flip of the picture does. Applied twice, it gives the text itself.

    The "right" of "right ahead" and similar phrases stays.
    """

    def other(match: re.Match[str]) -> str:
        word = "right" if match[0].lower() == "left" else "left"
        if match[0].isupper():
            return word.upper()
        return word.capitalize() if match[0][0].isupper() else word

    return _SIDE.sub(other, text)
