"""The action-reasoning reward: a language model judges whether an answer's reason supports its action.

Departures from Appendix A.3 of the paper:
1. The paper gives only the prompt of its judge; its score there is BLEU-4 against labels at a threshold of 0.5 (here
   ``BLEU``). This is the judge itself, which needs no labels.
2. The paper's prompt ("Explanation: {explanation} Reason: {reason} Score:") does not say what to judge. The shipped
   prompt does, and ends in the paper's words.
"""

import math
import re
import warnings
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn

from lvad.errors import ChatError, JudgeError
from lvad.rewards.chat import ChatClient, Endpoint
from lvad.rewards.chat_replies import shorten
from lvad.taxonomy import Taxonomy
from lvad.text import Flaw, parse
from lvad.types import Batch, Rollouts, Scores

SHIPPED_PROMPT: Final = Path(__file__).with_name("judge_prompt.txt")
MAX_REASON_CHARS: Final = 400

_SLOT: Final = re.compile(r"\{(explanation|reason)\}")
_THOUGHT: Final = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_SCORE: Final = re.compile(r"\bscore[\s*_]*:", re.IGNORECASE)
_NUMBER: Final = re.compile(r"(-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+))\.?")


class LLMJudge(nn.Module):
    """R^2 of Appendix A.3: a language model's score of how well the reason of an answer supports its action.

    The judge sees the actions of the taxonomy by name, and the reasons in their own words: one line without control
    characters and angle brackets, of at most ``MAX_REASON_CHARS`` characters, so that a reason cannot leave its line or
    the tags around it. Other actions and text after the answer are not shown; ``Format`` is the reward for those.

    An answer without a known action or without a reason gets 0 without a question to the judge. Until the first text
    with an action part, a policy that gives no answers at all is an error. The judge sees no picture, so a consistent
    lie gets 1: combine it with a reward that sees the scene.

    Args:
        endpoint: the server and its model.
        prompt_file: a text with {explanation} for the action and {reason} for the reason, whose reply is read by
            ``read_score``; None takes the shipped one.
        threshold: pay 1 from this score on and 0 below it (the paper: 0.5); None pays the score itself.
        max_score: the top of the prompt's scale, whose bottom is 0; the reward is the score divided by it.
        cache_folder: folder of the cache of verdicts; None asks anew at each call.
        on_failure: the result of a completion without a verdict after all retries: an ``error``, or ``drop``, which
            gives it NaN (set regularisation.non_finite to drop too). A key or address that is refused is always an
            error, and so is a server that has given no verdict yet.

    Raises:
        ValueError: for a prompt that cannot be read or lacks a placeholder, a threshold outside (0, 1], a
            ``max_score`` that is not positive and finite, or another ``on_failure``.

    Source:
        Zheng et al. 2023 (LLM-as-a-judge), as the paper uses it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        prompt_file: str | None = None,
        threshold: float | None = None,
        max_score: float = 1.0,
        cache_folder: str | None = None,
        on_failure: Literal["error", "drop"] = "error",
    ) -> None:
        super().__init__()
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], or null to pay the score itself, got {threshold}")
        if not 0 < max_score < math.inf:
            raise ValueError(f"max_score must be > 0 and finite, got {max_score}")
        if on_failure not in ("error", "drop"):
            raise ValueError(f"on_failure must be error or drop, got {on_failure!r}")
        self.template = _read_template(SHIPPED_PROMPT if prompt_file is None else Path(prompt_file).expanduser())
        self.chat = ChatClient(endpoint, cache_folder)
        self.threshold, self.max_score, self.on_failure = threshold, max_score, on_failure
        self._has_answers = self._has_verdicts = False

    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K] in [0, 1], NaN for dropped ones; term ``judge`` is before the threshold.

        Raises:
            JudgeError: naming scene, text, endpoint, cause and remedy; or if none of the texts is an answer.
            OSError: if the cache cannot be read or written.
        """
        self._check_answers(batch, rollouts.texts)
        prompts = [[self._prompt(text, batch.taxonomy) for text in row] for row in rollouts.texts]
        asked = [prompt for row in prompts for prompt in row if prompt is not None]
        found = self.chat.ask(asked, lambda reply: read_score(reply, self.max_score), self.on_failure == "drop")
        self._has_verdicts |= any(not isinstance(value, ChatError) for value in found.values())
        rows = [[0.0 if prompt is None else found.get(prompt, math.nan) for prompt in row] for row in prompts]
        self._check(rows, batch.ids, rollouts.texts)
        values = [[math.nan if isinstance(value, ChatError) else value for value in row] for row in rows]
        judge = torch.tensor(values, dtype=torch.float32, device=rollouts.logps.device)  # float[B, K]
        # A comparison alone would make a zero of NaN.
        total = judge if self.threshold is None else (judge >= self.threshold).float().where(~judge.isnan(), judge)
        return Scores(total, {"judge": judge})

    def _prompt(self, text: str, taxonomy: Taxonomy) -> str | None:
        """Write the judge's prompt for a text; None where there is nothing to judge."""
        answer = parse(text, taxonomy)
        actions = [name for name, flag in zip(taxonomy.action_names, answer.actions, strict=True) if flag]
        reasons = [name for name, flag in zip(taxonomy.reason_texts, answer.reasons, strict=True) if flag]
        reasons += [problem.words for problem in answer.problems if problem.flaw is Flaw.UNKNOWN_REASON]
        words = {"explanation": ", ".join(actions), "reason": _harmless(", ".join(reasons))}
        if not all(words.values()):
            return None
        # In one pass: a reason that says {explanation} stays as it is.
        return _SLOT.sub(lambda slot: words[slot[1]], self.template)

    def _check_answers(self, batch: Batch, texts: list[list[str]]) -> None:
        """Refuse texts that are descriptions, as a reward of zero for all of them would hide the wrong setting."""
        flaws = ([problem.flaw for problem in parse(text, batch.taxonomy).problems] for row in texts for text in row)
        self._has_answers = self._has_answers or any(Flaw.NO_ACTION not in found for found in flaws)
        if not self._has_answers:
            raise JudgeError(
                f"LLMJudge judges answers, and none of the texts has an 'Action:' part (scene {batch.ids[0]!r}: "
                f"{shorten(texts[0][0], 80)}): take a policy that answers, such as the model of configs/toy_sft.yaml "
                "with its question, and set answers to true"
            )

    def _check(self, rows: list[list[float | ChatError]], ids: list[str], texts: list[list[str]]) -> None:
        failures = [
            (b, k, value) for b, row in enumerate(rows) for k, value in enumerate(row) if isinstance(value, ChatError)
        ]
        endpoint = self.chat.endpoint
        for b, k, error in failures:
            if self.on_failure == "error" or error.then == "stop" or not self._has_verdicts:
                raise JudgeError(
                    f"the judge {endpoint.model!r} at {endpoint.url} gave no verdict on scene {ids[b]!r}, completion "
                    f"{k} ({shorten(texts[b][k], 80)}): {error}"
                ) from error
        if failures:
            b, k, error = failures[0]
            warnings.warn(
                f"the judge {endpoint.model!r} at {endpoint.url} gave no verdict on {len(failures)} completions, the "
                f"first of scene {ids[b]!r}: {error}",
                stacklevel=3,
            )


def read_score(reply: str, max_score: float = 1.0) -> float:
    """Read the score in a judge's reply, in [0, 1].

    After the one "Score:" the reply must hold one number from 0 to ``max_score`` and nothing else; without "Score:" the
    whole reply must be that number. Emphasis (``*``, ``_``, backticks) and a full stop around the number are allowed,
    and so is any text before "Score:". Thoughts of a reasoning model between <think> and </think> are skipped.

    Args:
        reply: the judge's reply.
        max_score: the top of its scale.

    Returns:
        The number divided by ``max_score``.

    Raises:
        ValueError: for anything else: two numbers, a fraction, a percentage, NaN, a number out of range, none.
    """
    thought = _THOUGHT.match(reply)
    parts = _SCORE.split(reply[thought.end() :] if thought else reply)
    if len(parts) > 2:
        raise ValueError(f"'Score:' stands there {len(parts) - 1} times")
    number = _NUMBER.fullmatch(parts[-1].strip("*_` \t\r\n"))
    if number is None:
        raise ValueError("it must be, or end in 'Score:' and, exactly one number")
    score = float(number[1])
    if not 0 <= score <= max_score:
        raise ValueError(f"{score:g} is not from 0 to {max_score:g}")
    return score / max_score


def _harmless(words: str) -> str:
    """Make one line of printable characters without angle brackets; all other characters become blanks."""
    plain = "".join(c if c.isprintable() and c not in "<>" else " " for c in words[: 4 * MAX_REASON_CHARS])
    return " ".join(plain.split())[:MAX_REASON_CHARS]


def _read_template(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no plain file")
        template = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt_file {path} cannot be read: {error}") from error
    missing = {"{explanation}", "{reason}"} - set(slot[0] for slot in _SLOT.finditer(template))
    if missing:
        raise ValueError(f"prompt_file {path} lacks the placeholder {' and '.join(sorted(missing))}")
    return template
