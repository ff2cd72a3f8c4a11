"""Grammar-constrained sampling: which tokens may come next, so that every sampled answer parses.

There are two automata. ``AnswerGrammar`` reads characters and accepts exactly the texts that ``render`` writes.
``TokenGrammar`` reads tokens of one tokenizer and knows for every state which tokens lead to an answer that still fits
into the tokens that are left. Every way to split a text into tokens is allowed: a mask that allowed only one would
renormalise more than the grammar asks for.

The mask is part of the sampled distribution: the completion pass replays the automaton over the drawn tokens and
applies the same masks, so the differentiated log-probabilities are those of the renormalised distribution.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lvad.taxonomy import BDD_OIA, NONE, Taxonomy
from lvad.text import render

_ENDED: Final = 0
_UNREACHABLE: Final = 1 << 30


class _After(NamedTuple):
    """What was written last: a label of a part (0 actions, 1 reasons), or -1 for the words before its first label."""

    part: int
    label: int


State = frozenset[tuple[str, _After]]
"""The texts that may be written next, each with what will then have been written last."""


@dataclass(frozen=True)
class AnswerGrammar:
    """The texts that ``render`` writes: each label at most once, in index order, or ``none``.

    A space before the answer is allowed, because tokenizers put one there and decoding strips it.

    Args:
        with_reasons: True for "Action: stop. Reason: traffic sign.", False for "Action: stop.".
        taxonomy: the names of the labels.
    """

    with_reasons: bool = True
    taxonomy: Taxonomy = BDD_OIA

    @property
    def _frame(self) -> list[str]:
        """The words around the parts: before the first, between the two, after the last."""
        names = self.taxonomy
        reasons = [0] * names.num_reasons if self.with_reasons else None
        return render([0] * names.num_actions, reasons, names).split(NONE)

    @property
    def alphabet(self) -> frozenset[str]:
        """Every character that an answer may hold."""
        names = self.taxonomy
        return frozenset(render([1] * names.num_actions, [1] * names.num_reasons, names) + NONE)

    @property
    def start(self) -> State:
        """The state before the first character."""
        opening = self._frame[0]
        return frozenset({(opening, _After(0, -1)), (f" {opening}", _After(0, -1))})

    def is_complete(self, state: State) -> bool:
        """Whether a whole answer is written."""
        return ("", _After(len(self._frame) - 1, -1)) in state

    def successors(self, state: State) -> dict[str, State]:
        """The characters that may come next, each with the state that follows; empty after the last one."""
        found: defaultdict[str, set[tuple[str, _After]]] = defaultdict(set)
        for text, after in state:
            if text[1:]:
                found[text[0]].add((text[1:], after))
            elif text:
                found[text].update(self._next_texts(after))
        return {char: frozenset(threads) for char, threads in found.items()}

    def _next_texts(self, written: _After) -> Iterator[tuple[str, _After]]:
        part, last = written
        frame = self._frame
        if part == len(frame) - 1:
            yield "", written
            return
        names = (self.taxonomy.action_names, self.taxonomy.reason_texts)[part]
        for label in range(last + 1, len(names)):
            yield (names[label] if last < 0 else f", {names[label]}"), _After(part, label)
        if last < 0:
            yield NONE, _After(part, len(names))  # no label follows the last one
        else:
            yield frame[part + 1], _After(part + 1, -1)


@dataclass
class _Node:
    """A node of the prefix tree of the token texts."""

    children: dict[str, "_Node"] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)


def _prefix_tree(texts: Sequence[str], alphabet: frozenset[str]) -> _Node:
    root = _Node()
    for token, text in enumerate(texts):
        if text and alphabet.issuperset(text):  # a token without text would use up the length limit and write nothing
            node = root
            for char in text:
                node = node.children.setdefault(char, _Node())
            node.tokens.append(token)
    return root


class GrammarState(NamedTuple):
    """State of the token automaton for one completion."""

    state: int
    """Index of the state: 0 after the end, 1 before the first token."""
    num_left: int
    """Tokens that may still be drawn, the next one included."""


class GrammarStates(NamedTuple):
    """The grammar states of N completions, or of N positions in given completions."""

    grammar: "TokenGrammar"
    states: list[GrammarState]

    def banned(self, device: torch.device) -> Tensor:
        """The mask bool[R, V], True on tokens that may not come next."""
        allowed = [self.grammar.allowed(state) for state in self.states]
        rows = torch.arange(len(allowed)).repeat_interleave(torch.tensor([len(a) for a in allowed], dtype=torch.long))
        banned = torch.ones(len(allowed), self.grammar.vocabulary, dtype=torch.bool, device=device)
        if allowed:
            banned[rows.to(device), torch.cat(allowed).to(device)] = False
        return banned

    def after(self, tokens: Tensor) -> "GrammarStates":
        """The states after one more token each, int64[R]; a completion that has ended keeps its state."""
        drawn = zip(self.states, tokens.tolist(), strict=True)
        return GrammarStates(self.grammar, [self.grammar.after(state, token) for state, token in drawn])

    def pick(self, rows: Iterable[int]) -> "GrammarStates":
        """The states of some rows."""
        return GrammarStates(self.grammar, [self.states[row] for row in rows])


class TokenGrammar:
    """An answer grammar over the tokens of one tokenizer, with all states computed in advance.

    Args:
        grammar: over characters.
        texts: the text of each of the V tokens; empty for end tokens and those that may never be drawn.
        end_id: the token that ends an answer, allowed only after a whole one. Other end tokens are not allowed: nothing
            else may follow a whole answer, so which of them it is carries no information.

    Raises:
        ValueError: if the tokens cannot write any answer.
    """

    def __init__(self, grammar: AnswerGrammar, texts: Sequence[str], end_id: int) -> None:
        self.vocabulary = len(texts)
        moves = _all_moves(grammar, _prefix_tree(texts, grammar.alphabet), end_id)
        needs = _tokens_to_end(moves)
        self.shortest = needs[_ENDED + 1]
        """Tokens of the shortest answer, the end included."""
        if self.shortest >= _UNREACHABLE:
            raise ValueError(f"the {len(texts)} tokens of the vocabulary cannot write an answer of {grammar}")
        self._moves = [{t: then for t, then in row.items() if needs[then] < _UNREACHABLE} for row in moves]
        self._tokens = [torch.tensor(list(row), dtype=torch.long) for row in self._moves]
        self._needs = needs
        self._needs_after = [torch.tensor([needs[then] for then in row.values()]) for row in self._moves]

    def start(self, num_completions: int, max_new_tokens: int) -> GrammarStates:
        """The states before the first token of each completion.

        Raises:
            ValueError: if not even the shortest answer fits.
        """
        if self.shortest > max_new_tokens:
            raise ValueError(
                f"max_new_tokens must be >= {self.shortest}, the tokens of the shortest answer with its end, "
                f"got {max_new_tokens}"
            )
        return GrammarStates(self, [GrammarState(_ENDED + 1, max_new_tokens)] * num_completions)

    def allowed(self, state: GrammarState) -> Tensor:
        """The tokens after which an answer can still be completed in time; at least one."""
        return self._tokens[state.state][self._needs_after[state.state] < state.num_left]

    def after(self, state: GrammarState, token: int) -> GrammarState:
        """The state after one more token.

        Raises:
            ValueError: if the token is not allowed.
        """
        if state.state == _ENDED:
            return state
        then = self._moves[state.state].get(token)
        if then is None or self._needs[then] >= state.num_left:
            raise ValueError(f"token {token} leads to no answer with {state.num_left} tokens left")
        return GrammarState(then, 1 if then == _ENDED else state.num_left - 1)

    def replay(self, tokens: Tensor, completion_mask: Tensor, max_new_tokens: int) -> GrammarStates:
        """Find the states at which given tokens were drawn.

        Args:
            tokens: int64[B, K, T].
            completion_mask: bool[B, K, T], True on sampled tokens.
            max_new_tokens: the length limit under which they were drawn.

        Returns:
            One state per True in ``completion_mask``, in its row-major order.

        Raises:
            ValueError: naming the completion that cannot have been drawn with this grammar and length limit.
        """
        states: list[GrammarState] = []
        first = self.start(1, max_new_tokens).states[0]
        rows = zip(tokens.flatten(0, 1).cpu(), completion_mask.flatten(0, 1).cpu(), strict=True)
        for row, (drawn, keep) in enumerate(rows):
            state = first
            for step, token in enumerate(drawn[keep].tolist()):
                states.append(state)
                try:
                    state = self.after(state, token)
                except ValueError as error:
                    scene, k = divmod(row, tokens.shape[1])
                    where = f"completion {k} of scene {scene}, token {step}"
                    raise ValueError(f"{where}: {error}; pass the grammar it was drawn with") from error
        return GrammarStates(self, states)


def _all_moves(grammar: AnswerGrammar, tree: _Node, end_id: int) -> list[dict[int, int]]:
    """The next state by token, for every state that tokens can reach: 0 has ended, 1 is the start."""
    steps = cache(grammar.successors)
    numbers = {grammar.start: _ENDED + 1}
    moves = [{end_id: _ENDED}]
    for state in (queue := [grammar.start]):  # the list grows during the loop
        row = {end_id: _ENDED} if grammar.is_complete(state) else {}
        frontier = [(state, tree)]
        while frontier:
            here, node = frontier.pop()
            if node.tokens:
                if here not in numbers:
                    numbers[here] = len(numbers) + 1
                    queue.append(here)
                row.update(dict.fromkeys(node.tokens, numbers[here]))
            frontier.extend((then, node.children[c]) for c, then in steps(here).items() if c in node.children)
        moves.append(row)
    return moves


def _tokens_to_end(moves: list[dict[int, int]]) -> list[int]:
    """The least number of tokens from each state to the end, by a breadth-first search backwards."""
    sources: list[set[int]] = [set() for _ in moves]
    for state, row in enumerate(moves):
        for then in row.values():
            sources[then].add(state)
    needs = [_UNREACHABLE] * len(moves)
    needs[_ENDED] = 0
    for state in (queue := [_ENDED]):  # the list grows during the loop
        for source in sources[state]:
            if needs[source] == _UNREACHABLE:
                needs[source] = needs[state] + 1
                queue.append(source)
    return needs
