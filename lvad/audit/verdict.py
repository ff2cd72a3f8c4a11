"""The results of an audit: a verdict on each probe, and on the reward."""

import math
from typing import Any, Final, Literal, NamedTuple

from torch import Tensor

from lvad.audit.probes import GIBBERISH, PROBES
from lvad.audit.ranking import Ranking
from lvad.audit.scoring import AuditScores
from lvad.metrics.intervals import Interval, bootstrap_mean

MIN_SCENES: Final = 8
"""The fewest scenes of a verdict."""

Verdict = Literal["pass", "fail", "skipped"]


class ProbeResult(NamedTuple):
    """The result of a probe over all scenes that qualify.

    The right text must win against the probe; only ``all_true`` must win itself, against ``other_scene``.
    """

    verdict: Verdict
    """``pass`` where the 95 % intervals lie above 0 (separation) and above 1/2 (win rate)."""
    separation: Interval | None
    """Mean over scenes of the reward of the text that must win, less that of the other; None where skipped."""
    win_rate: Interval | None
    """Share of scenes where the text that must win does; ties count half."""
    right: float | None
    """Mean reward of the text that must win."""
    probe: float | None
    """Mean reward of the text that must lose."""
    num_scenes: int
    why: str
    """Why the probe was skipped, else empty."""


class Audit(NamedTuple):
    """The findings of an audit of a reward."""

    texts: str
    """Where the right texts come from: a text source, or ``given``."""
    num_scenes: int
    """Scenes with a right text."""
    probes: dict[str, ProbeResult]
    ranking: Ranking | None
    """None where the source has no candidate texts (captions, given texts)."""

    @property
    def failed(self) -> list[str]:
        """Names of the probes that the reward fails."""
        return [name for name, probe in self.probes.items() if probe.verdict == "fail"]

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """The verdict on the reward: ``pass`` where no probe failed."""
        return "fail" if self.failed else "pass"

    @property
    def tells_right_from_wrong(self) -> bool:
        """Whether the reward prefers the right text to another scene's and to gibberish, as training needs."""
        return all(self.probes[name].verdict == "pass" for name in ("other_scene", *GIBBERISH))

    def as_dict(self) -> dict[str, Any]:
        """The audit as plain values for JSON; what was not measured is None."""
        found = self.ranking
        calibration = found.calibration if found else None
        return {
            "texts": self.texts,
            "num_scenes": self.num_scenes,
            "verdict": self.verdict,
            "tells_right_from_wrong": self.tells_right_from_wrong,
            "probes": {name: _as_dict(probe) for name, probe in self.probes.items()},
            "rank": found.rank._asdict() if found else None,
            "auroc": found.auroc if found else None,
            "auroc_floor": found.auroc_floor if found else None,
            "auroc_per_text": found.auroc_per_text if found and not math.isnan(found.auroc_per_text) else None,
            "calibration": calibration._asdict() if calibration else None,
        }


def judge_probes(scored: AuditScores) -> dict[str, ProbeResult]:
    """Judge for every probe whether the text that must win does."""
    found = {}
    for name in PROBES:
        better, worse = scored.right, scored.probes[name]
        if name == "all_true":
            better, worse = worse, scored.probes["other_scene"]
        found[name] = _judge_one(name, better, worse)
    return found


def _judge_one(name: str, better: Tensor, worse: Tensor) -> ProbeResult:
    rows = ~(better.isnan() | worse.isnan())
    num = int(rows.sum())
    if num < MIN_SCENES:
        why = f"{num} of {len(rows)} scenes qualify, {MIN_SCENES} are needed: {PROBES[name].needs}"
        return ProbeResult("skipped", None, None, None, None, num, why)
    difference = better[rows] - worse[rows]
    separation = bootstrap_mean(difference)
    win_rate = bootstrap_mean((difference.sign() + 1) / 2)
    verdict: Verdict = "pass" if separation.low > 0 and win_rate.low > 0.5 else "fail"
    right, probe = better[rows].mean().item(), worse[rows].mean().item()
    return ProbeResult(verdict, separation, win_rate, right, probe, num, "")


def _as_dict(probe: ProbeResult) -> dict[str, Any]:
    intervals = {"separation": probe.separation, "win_rate": probe.win_rate}
    return probe._asdict() | {name: list(value) if value else None for name, value in intervals.items()}
