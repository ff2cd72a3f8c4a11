"""The label set of a run: its actions and reasons, their names, and how they relate.

A label set is data: ``lvad.taxonomy.files`` reads it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

NONE: Final = "none"
"""The word of an answer where no label holds."""
MAX_ACTIONS: Final = 10
SYMBOLS: Final = ("dot", "up", "octagon", "left", "right")
"""The symbols that an action can be drawn with."""
_SHOWN: Final = 4
_RESERVED: Final = ".,"  # they end the parts of an answer, and part the names in it


class Action(NamedTuple):
    """One of the A actions that may be possible in a scene."""

    name: str
    """The word that lvad reads and writes."""
    mirror: int
    """Index of the action that is possible in the mirrored scene where this one is in the scene itself."""
    aliases: tuple[str, ...] = ()
    """Other names that an answer may have for it."""
    question: str = ""
    """Its name in the question that a policy is asked; empty for ``name``."""
    symbol: str = "dot"


class Reason(NamedTuple):
    """One of the R reasons why an action is possible or not."""

    key: str
    """The name in files and scores."""
    text: str
    """The words that lvad reads and writes."""
    action: int
    """Index of the action that it speaks of."""
    supports: bool
    """True where it explains why the action is possible, False where it forbids it."""
    mirror: int
    """Index of the reason that is true of the mirrored scene where this one is true of the scene itself."""


class Contradiction(NamedTuple):
    """Reasons that cannot be true together."""

    says: str
    reasons: tuple[int, ...]
    against: tuple[int, ...]


class Taxonomy:
    """A label set. It is immutable, and two are equal where all their parts are.

    It is no dataclass, because Lightning refuses frozen dataclasses in a batch.

    Args:
        name: name of the set, for messages.
        actions: the A actions.
        reasons: the R reasons.
        constant: index of the action of the constant answer that every score is compared with.
        exclusive: pairs of actions that exclude each other.
        contradictions: reasons that exclude each other.

    Raises:
        ValueError: naming a contradiction in the set, or labels that an answer could not hold or tell apart.
    """

    def __init__(
        self,
        name: str,
        actions: Sequence[Action],
        reasons: Sequence[Reason],
        constant: int = 0,
        exclusive: Sequence[tuple[int, int]] = (),
        contradictions: Sequence[Contradiction] = (),
    ) -> None:
        self.name, self.constant = name, constant
        self.actions, self.reasons = tuple(actions), tuple(reasons)
        self.exclusive, self.contradictions = tuple(exclusive), tuple(contradictions)
        check_names("action", [(action.name, action.aliases) for action in self.actions])
        check_names("reason", [(reason.text, ()) for reason in self.reasons])
        check_distinct("reason key", [reason.key for reason in self.reasons])
        _check_mirror("action", self.action_names, [action.mirror for action in self.actions])
        _check_mirror("reason", self.reason_keys, [reason.mirror for reason in self.reasons])
        self._check_indices()

    def __reduce__(self) -> tuple[Any, ...]:
        return Taxonomy, self._all

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taxonomy) and self._all == other._all

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Taxonomy({self.name!r}, {self.num_actions} actions, {self.num_reasons} reasons)"

    @property
    def _all(self) -> tuple[Any, ...]:
        return self.name, self.actions, self.reasons, self.constant, self.exclusive, self.contradictions

    @cached_property
    def _hash(self) -> int:
        return hash(self._all)

    @property
    def num_actions(self) -> int:
        """The number of actions, A."""
        return len(self.actions)

    @property
    def num_reasons(self) -> int:
        """The number of reasons, R."""
        return len(self.reasons)

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """The A names, in index order."""
        return tuple(action.name for action in self.actions)

    @cached_property
    def reason_keys(self) -> tuple[str, ...]:
        """The R keys, in index order."""
        return tuple(reason.key for reason in self.reasons)

    @cached_property
    def reason_texts(self) -> tuple[str, ...]:
        """The R texts, in index order."""
        return tuple(reason.text for reason in self.reasons)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The L = A + R columns of a label matrix: actions by name, then reasons by text."""
        return self.action_names + self.reason_texts

    @cached_property
    def action_index(self) -> Mapping[str, int]:
        """The index of each action by its name."""
        return {name: i for i, name in enumerate(self.action_names)}

    @cached_property
    def reason_index(self) -> Mapping[str, int]:
        """The index of each reason by its key."""
        return {key: i for i, key in enumerate(self.reason_keys)}

    @cached_property
    def action_aliases(self) -> Mapping[str, str]:
        """The name of an action by each of its other names."""
        return {alias: action.name for action in self.actions for alias in action.aliases}

    @cached_property
    def mirrored_actions(self) -> tuple[int, ...]:
        """For each action the one that is possible in the mirrored scene where it is possible in the scene itself."""
        return tuple(action.mirror for action in self.actions)

    @cached_property
    def mirrored_reasons(self) -> tuple[int, ...]:
        """For each reason the one that is true of the mirrored scene where it is true of the scene itself."""
        return tuple(reason.mirror for reason in self.reasons)

    @cached_property
    def mirrored_labels(self) -> tuple[int, ...]:
        """The mirror partner of each of the L columns of a label matrix."""
        return (*self.mirrored_actions, *(self.num_actions + reason for reason in self.mirrored_reasons))

    @property
    def question(self) -> str:
        """The names of the actions in the question to the policy."""
        return ", ".join(action.question or action.name for action in self.actions)

    @property
    def floor(self) -> str:
        """The name of the constant answer in tables and, with underscores, in scores."""
        return f"always {self.action_names[self.constant]}"

    def differences(self, other: "Taxonomy") -> list[str]:
        """Describe each difference between this set and another one in a few words."""
        if self == other:
            return []
        found = []
        for kind, mine, theirs in (
            ("actions", self.action_names, other.action_names),
            ("reasons", self.reason_texts, other.reason_texts),
        ):
            only = [name for name in mine if name not in theirs], [name for name in theirs if name not in mine]
            sides = zip((self, other), only, strict=True)
            found += [f"{kind} of {side.name!r} alone: {_shortened(names)}" for side, names in sides if names]
            if not any(only) and mine != theirs:
                found.append(f"{kind} in another order")
        mine, theirs = self.as_dict(), other.as_dict()
        return found or [f"{key} differ" for key in mine if mine[key] != theirs[key]]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the set's file, with names instead of indices; ``load_taxonomy`` reads it."""
        names, keys = self.action_names, self.reason_keys
        return {
            "name": self.name,
            "constant": names[self.constant],
            "actions": [
                action._asdict() | {"mirror": names[action.mirror], "aliases": list(action.aliases)}
                for action in self.actions
            ],
            "exclusive": [[names[i] for i in pair] for pair in self.exclusive],
            "reasons": [r._asdict() | {"action": names[r.action], "mirror": keys[r.mirror]} for r in self.reasons],
            "contradictions": [
                {"says": c.says, "reasons": [keys[i] for i in c.reasons], "against": [keys[i] for i in c.against]}
                for c in self.contradictions
            ],
        }

    def _check_indices(self) -> None:
        if self.num_actions > MAX_ACTIONS:
            problem = f"there may be at most {MAX_ACTIONS} actions, got {self.num_actions}"
            raise ValueError(f"{problem}: every set of them is scored, which are 2 to that power")
        if not 0 <= self.constant < self.num_actions:
            raise ValueError(f"constant must be the index of an action, got {self.constant}")
        for action in self.actions:
            if action.symbol not in SYMBOLS:
                raise ValueError(f"action {action.name!r}: symbol must be one of {SYMBOLS}, got {action.symbol!r}")
        for reason in self.reasons:
            other = self.reasons[reason.mirror]
            wanted = self.actions[reason.action].mirror, reason.supports
            if (other.action, other.supports) != wanted:
                problem = f"its mirror partner {other.key!r} must be one for the mirror partner of its action"
                raise ValueError(f"reason {reason.key!r}: {problem}, and support or forbid it as this one does")


def _shortened(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def check_names(kind: str, rows: Sequence[tuple[str, Iterable[str]]]) -> None:
    """Refuse names that an answer could not hold, or two that it could not tell apart."""
    if not rows:
        raise ValueError(f"there must be at least one {kind}")
    names = [name for own, aliases in rows for name in (own, *aliases)]
    for name in names:
        plain = " ".join(name.lower().split())
        if not plain or name != plain or not name.isprintable():
            raise ValueError(f"{kind} {name!r} must be in lower case with single spaces: write {plain!r}")
        if name == NONE or any(mark in name for mark in _RESERVED):
            raise ValueError(
                f"{kind} {name!r} must have no full stop and no comma, which part an answer, and not be {NONE!r}, "
                "which is the answer where nothing holds"
            )
    check_distinct(kind, names)


def check_distinct(kind: str, names: Sequence[str]) -> None:
    """Refuse names of which two are the same.

    Raises:
        ValueError: naming one.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{kind} {twice[0]!r} is named twice; give every one a name of its own")


def _check_mirror(kind: str, names: Sequence[str], partners: Sequence[int]) -> None:
    for i, partner in enumerate(partners):
        if partners[partner] != i:
            back = names[partners[partner]]
            raise ValueError(
                f"{kind} {names[i]!r} has the mirror partner {names[partner]!r}, whose own is {back!r}: each must be "
                "the other's"
            )
