"""Answers to hand-made scenes, for the tests of what compares runs."""

from lvad.report.answers_file import write_answers
from lvad.types import AnsweredScene

FORWARD, STOP, NOTHING = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0)
REASON, NO_REASON = (1, *[0] * 20), (0,) * 21


def scene(name, said, true, reasons=NO_REASON, true_reasons=REASON, **changed):
    row = AnsweredScene(
        id=name, description="", text="", actions=said, reasons=reasons, is_valid=True, action_probabilities=(),
        reason_probabilities=(), true_actions=true, true_reasons=true_reasons,
    )  # fmt: skip
    return row._replace(**changed)


def write_run(folder, said, true=(FORWARD, STOP, STOP, STOP), names="abcd", **changed):
    """A run folder with one answer per scene."""
    rows = [scene(name, *pair, **changed) for name, *pair in zip(names, said, true, strict=True)]
    write_answers(folder / "answers.jsonl", rows)
    return folder
