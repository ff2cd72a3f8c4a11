"""The files of a study: tables, rows with the commands that repeat each run, figures, TensorBoard curves."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from lvad.metrics.intervals import Interval
from lvad.metrics.seeds import LabelsNeeded
from lvad.report.plot_style import pixels
from lvad.report.runs import markdown, write_atomically
from lvad.report.study_figure import study_figure
from lvad.report.study_findings import SHOWN, TEST, CellResult, Difference, Findings, Mean
from lvad.types import Table

STUDY: Final = "study"


def study_tables(found: Findings) -> list[Table]:
    """Make the tables of means, differences and label savings."""
    where = f"{found.num_scenes} {'test scenes' if found.source == TEST else f'scenes, {found.source}'}"
    rows = [
        (m.arm, str(m.budget), _labels(m), str(len(m.seeds)), *(percent(m.scores[name]) for name in SHOWN))
        for m in found.means
    ]
    for name, own in found.floors.items():
        cells = (f"{100 * own[score]:.1f}" if score in own else "-" for score in SHOWN)
        rows.append((name.replace("_", " "), "0", "0", "-", *cells))
    header = ("arm", "budget", "labels", "seeds", *SHOWN.values())
    tables = [Table(f"{where}, %: mean over seeds (95 % interval)", header, tuple(rows))]
    if found.differences:
        each = [f"{name}, {over}" for name in SHOWN.values() for over in ("over seeds", "over seeds and scenes")]
        header = ("difference", "budget", "labels", "seeds", *each)
        title = f"{where}, points: paired differences (95 % interval); * excludes 0"
        tables.append(Table(title, header, tuple(_difference_row(d) for d in found.differences)))
    if found.savings:
        best = " and ".join(found.references)
        header = ("arm", "budget", "score", f"labels that the best of {best} needs", "as many times")
        saved = [
            (s.arm, str(s.budget), SHOWN[s.score], _needed(s.needed), _times(s.needed, s.budget)) for s in found.savings
        ]
        tables.append(Table(f"{where}: labels for the same score, on a log axis", header, tuple(saved)))
    return tables


def study_text(name: str, findings: Sequence[Findings]) -> str:
    """Write the tables as Markdown, and which arms do not keep to their budget."""
    lines = [f"# {name}\n", *(markdown(table) for found in findings for table in study_tables(found))]
    lines += [f"{line}\n" for line in label_lines(findings[0].means)]
    return "\n".join(lines)


def label_lines(means: Sequence[Mean]) -> list[str]:
    """Say in lines whether the arms had equally many labels at each budget, by their ledgers."""
    off = [f"{mean.arm} at {mean.budget}: {_labels(mean)}" for mean in means if mean.labels != [mean.budget]]
    if off:
        return [f"Labels DIFFER from the budget, over all stages: {'; '.join(off)}."]
    return ["Labels are equal at every budget: each arm's, over all its stages, are as many as the budget."]


def study_rows(cells: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Make one row per run, with the commands that repeat it; NaN is None."""
    left_out = ("answered", "folder", "scores", "taxonomy")
    return [
        {key: value for key, value in cell._asdict().items() if key not in left_out}
        | {"folder": str(cell.folder), "taxonomy": cell.taxonomy.name}
        | {"scores": {source: {k: _finite(v) for k, v in own.items()} for source, own in cell.scores.items()}}
        for cell in cells
    ]


def write_study(folder: Path, name: str, cells: Sequence[CellResult], findings: Sequence[Findings]) -> list[Path]:
    """Write ``study.json``, ``study.md``, a figure per source of test scenes, and TensorBoard's curves.

    Args:
        folder: of the study.
        name: its title.
        cells: its runs.
        findings: what they say, the test scenes' first.

    Returns:
        The files.
    """
    files = [folder / f"{STUDY}.{kind}" for kind in ("md", "json")]
    write_atomically(files[0], study_text(name, findings))
    whole = {"name": name, "runs": study_rows(cells), "findings": [_plain(found) for found in findings]}
    write_atomically(files[1], json.dumps(whole, indent=1, allow_nan=False) + "\n")
    figures = {found.source: study_figure(name, found) for found in findings}
    for source, figure in figures.items():
        files.append(folder / (f"{STUDY}.png" if source == TEST else f"{STUDY}_{source}.png"))
        figure.savefig(files[-1], dpi=120)
    _write_curves(folder / "tensorboard", findings, figures)
    return files


def _write_curves(folder: Path, findings: Sequence[Findings], figures: Mapping[str, Figure]) -> None:
    """Write each arm as a run of its own: TensorBoard draws the arms over each other, and the step is the budget."""
    shutil.rmtree(folder, ignore_errors=True)
    for found in findings:
        for arm in dict.fromkeys(mean.arm for mean in found.means):
            with SummaryWriter(folder / arm) as writer:
                for mean in (mean for mean in found.means if mean.arm == arm):
                    for score, value in mean.scores.items():
                        writer.add_scalar(f"{found.source}/{score}", value.mean, mean.budget)
        with SummaryWriter(folder / STUDY) as writer:
            writer.add_image(f"{STUDY}/{found.source}", pixels(figures[found.source]), dataformats="HWC")


def percent(value: Interval, sign: str = "") -> str:
    """Write a share and its interval in percent; the mean alone where there is one seed."""
    if math.isnan(value.mean):
        return "-"
    mean, low, high = (100 * number for number in value)
    return f"{mean:{sign}.1f}" + ("" if math.isnan(low) else f" ({low:{sign}.1f} to {high:{sign}.1f})")


def _difference_row(difference: Difference) -> tuple[str, ...]:
    cells = []
    for name in SHOWN:
        for value in (difference.over_seeds[name], difference.over_scenes[name]):
            is_clear = value.low > 0 or value.high < 0
            cells.append(percent(value, "+") + " *" * is_clear)
    equal = "equal" if difference.has_equal_labels else "DIFFER"
    what = f"{difference.arm} - {difference.minus}"
    return (what, str(difference.budget), equal, str(len(difference.seeds)), *cells)


def _labels(mean: Mean) -> str:
    return " or ".join(f"{count:,}" for count in mean.labels)


def _needed(needed: LabelsNeeded) -> str:
    return f"{needed.bound} {needed.count:.0f}".strip()


def _times(needed: LabelsNeeded, budget: int) -> str:
    return f"{needed.bound} {needed.count / budget:.1f}".strip() if budget else "-"


def _plain(found: Findings) -> dict[str, Any]:
    """Turn named tuples into dictionaries, nested ones too."""

    def plain(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return {key: plain(part) for key, part in value._asdict().items()}
        if isinstance(value, dict):
            return {str(key): plain(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return _finite(value) if isinstance(value, float) else value

    return plain(found)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
