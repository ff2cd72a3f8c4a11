"""The table and the picture of an audit; ``lvad.audit`` computes the numbers."""

import os
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes

from lvad.audit import Audit, ProbeResult
from lvad.audit.ranking import Calibration, Ranking
from lvad.metrics.intervals import Interval
from lvad.report.plot_style import BLUE, INK, ORANGE, new_figure

_COLUMNS: Final = ("probe", "right", "probe's", "separation, 95 %", "win rate, 95 %", "scenes", "verdict")
_WIDTHS: Final = (14, 7, 7, 24, 18, 6, 7)
_COLOURS: Final = {"pass": BLUE, "fail": ORANGE}


def audit_table(audit: Audit) -> str:
    """Write one line per probe, at most 100 columns wide, then the ranking and the verdict."""
    lines = [_line(_COLUMNS), _line(tuple("-" * width for width in _WIDTHS))]
    lines += [_line(_cells(name, probe)) for name, probe in audit.probes.items()]
    skipped = {name: probe.why for name, probe in audit.probes.items() if probe.verdict == "skipped"}
    lines += ["", *(f"skipped {name}: {why}" for name, why in skipped.items())] if skipped else [""]
    lines += _ranking_lines(audit.ranking)
    source = {"given": "given texts", "caption": "captions"}.get(audit.texts, f"{audit.texts}s")
    failed = f" ({', '.join(audit.failed)})" if audit.failed else ""
    return "\n".join([*lines, f"verdict: {audit.verdict}{failed}, on {audit.num_scenes} scenes with {source}"])


def audit_picture(audit: Audit, title: str, path: Path) -> Path:
    """Draw the separations with their intervals, and the calibration curve where there is one.

    Args:
        audit: what was found.
        title: of the picture.
        path: a ``.png``, replaced in one step.

    Returns:
        The path.
    """
    calibration = audit.ranking.calibration if audit.ranking else None
    figure = new_figure(12 if calibration else 7.5, 5)
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    columns = figure.add_gridspec(1, 2, width_ratios=(1.5, 1), wspace=0.1) if calibration else figure.add_gridspec(1, 1)
    _draw_separations(figure.add_subplot(columns[0, 0]), audit)
    if calibration:
        _draw_calibration(figure.add_subplot(columns[0, 1]), calibration)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp")
    figure.savefig(part, dpi=120, format="png")
    os.replace(part, path)
    return path


def _line(cells: tuple[str, ...]) -> str:
    first, *numbers, last = (cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return "  ".join([first.strip().ljust(_WIDTHS[0]), *numbers, last.strip()])


def _cells(name: str, probe: ProbeResult) -> tuple[str, ...]:
    means = [_short(value) if value is not None else "-" for value in (probe.right, probe.probe)]
    intervals = [_interval(probe.separation, "+"), _interval(probe.win_rate, "")]
    return (name, *means, *intervals, str(probe.num_scenes), probe.verdict)


def _interval(found: Interval | None, sign: str) -> str:
    if found is None:
        return "-"
    mean, low, high = (_short(value, sign) for value in found)
    return f"{mean} [{low}, {high}]"


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:{sign}.4g}"


def _ranking_lines(found: Ranking | None) -> list[str]:
    if found is None:
        return []
    rank = found.rank
    lines = [
        f"rank of the right text: mean {rank.mean:.2f}, median {rank.median:g} (chance {rank.chance:.2f})",
        f"AUROC {found.auroc:.3f} (frequencies alone {found.auroc_floor:.3f}); "
        f"per text {found.auroc_per_text:.3f} (chance 0.500)",
    ]
    if found.calibration:
        lines.append(f"calibration error {found.calibration.ece:.3f} after Platt's fit on every other scene")
    return lines


def _draw_separations(axes: Axes, audit: Audit) -> None:
    """Draw one bar per probe, the first on top, in the unit of the reward."""
    for place, probe in enumerate(audit.probes.values()):
        if probe.separation is None or probe.win_rate is None:
            axes.text(0, place, " skipped", va="center", color=INK, alpha=0.6, size=9)
            continue
        mean, low, high = probe.separation
        axes.barh(place, mean, color=_COLOURS[probe.verdict], height=0.66)
        axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color=INK, linewidth=1.2, capsize=3)
        # The numbers stand in a column of their own, so that no bar hides them.
        note = f"{probe.verdict}, wins {probe.win_rate.mean:.0%}"
        column = axes.get_yaxis_transform()
        axes.text(1.02, place, note, transform=column, va="center", size=9, color=_COLOURS[probe.verdict])
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_title("separation: right text above the probe", loc="left", size=11)
    names = [f"{name} over\nother_scene" if name == "all_true" else name for name in audit.probes]
    axes.set_yticks(range(len(names)), names, size=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("difference of mean rewards, 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_calibration(axes: Axes, found: Calibration) -> None:
    axes.plot((0, 1), (0, 1), "--", color=INK, linewidth=1, label="perfect")
    most = max(found.count)
    axes.plot(found.claimed, found.observed, color=BLUE, linewidth=1.5)
    sizes = [15 + 105 * (count / most) ** 0.5 for count in found.count]
    label = f"Platt, ECE {found.ece:.3f}\n(larger: more pairs)"
    axes.scatter(found.claimed, found.observed, s=sizes, color=BLUE, label=label, zorder=3, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("claimed P(text is true)")
    axes.set_ylabel("share of true texts")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("calibration on the scenes it was not fitted on", loc="left", size=11)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
