"""Check a data set before a run: counts, faults, and labels that contradict each other."""

import dataclasses
import json as json_format
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from lvad.data.decoding import FrameSizes, decode_frames
from lvad.data.layouts import Layout, read_source
from lvad.data.reading import Reading
from lvad.data.recordings import recording_of_id
from lvad.data.split_algorithms import split_grouped, split_single
from lvad.errors import DataError, one_line
from lvad.taxonomy import BDD_OIA, Taxonomy, load_taxonomy
from lvad.types import Scene

NUM_SHOWN: Final = 20


@dataclass
class CheckReport:
    """The findings of ``check_source``."""

    root: str
    format: str
    taxonomy: str
    """Name of the label set."""
    splits: dict[str, int] = field(default_factory=dict)
    """Scenes per split (``""`` is named ``unsplit``)."""
    actions: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split -> action -> scenes with it."""
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split -> reason's key -> scenes with it."""
    texts: dict[str, int] = field(default_factory=dict)
    """Split -> scenes with a text, where a scene has one."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Why -> rows left out."""
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    images: str = "not checked"
    """Whether the pictures were checked, and how many of them could be decoded."""

    @property
    def exit_code(self) -> int:
        """1 where something cannot be used, else 0; warnings do not count."""
        return int(bool(self.errors))


_SPLITS: Final = {"single": split_single, "grouped": split_grouped}


def check_source(
    root: str | Path,
    format: Layout | Literal["auto"] = "auto",
    images: str | Path | None = None,
    subset: Literal["all", "single", "grouped"] = "all",
    decode: bool = True,
    num_frames: int = 2,
    taxonomy: Taxonomy = BDD_OIA,
) -> CheckReport:
    """Check a source. Faults are collected in the report and do not stop the check.

    Args:
        root: folder of the label files, or of pictures, or one picture or video.
        format: its layout.
        images: folder of the pictures, if not beside the labels.
        subset: count every scene, or the paper's one-action-one-reason scenes, split 8:2 (``single``) or with every
            recording whole (``grouped``).
        decode: open every picture; False only looks whether it exists.
        num_frames: M, the most frames of a scene; their pictures are checked.
        taxonomy: the label set.

    Returns:
        Counts, errors (a run would stop at them) and warnings (real data has them).
    """
    root = Path(os.path.expanduser(root))  # a user who is unknown stays a name
    folder = Path(os.path.expanduser(images)) if images else None
    report = CheckReport(str(root), format, taxonomy.name)
    try:
        reading = read_source(root, format, num_frames, folder, taxonomy=taxonomy)
        _add_reading(report, reading)
        scenes = _SPLITS[subset](reading.scenes, seed=0) if subset in _SPLITS else reading.scenes
    except DataError as error:
        report.errors.append(str(error))
        return report
    _count(report, scenes, taxonomy)
    report.warnings += _contradictions(scenes, taxonomy)
    _check_images(report, reading, scenes, decode)
    return report


def _add_reading(report: CheckReport, reading: Reading) -> None:
    report.format, report.dropped = reading.format, reading.dropped
    report.errors += [str(error) for error in reading.errors]
    report.warnings += reading.warnings


def _count(report: CheckReport, scenes: Sequence[Scene], taxonomy: Taxonomy) -> None:
    for split in dict.fromkeys(scene.split for scene in scenes):
        members = [scene for scene in scenes if scene.split == split]
        name = split or "unsplit"
        report.splits[name] = len(members)
        if any(scene.captions for scene in scenes):
            report.texts[name] = sum(bool(scene.captions) for scene in members)
        labelled = [scene for scene in members if scene.actions and scene.reasons]
        if labelled:
            actions = [sum(column) for column in zip(*(s.actions for s in labelled if s.actions), strict=True)]
            reasons = [sum(column) for column in zip(*(s.reasons for s in labelled if s.reasons), strict=True)]
            report.actions[name] = dict(zip(taxonomy.action_names, actions, strict=True))
            report.reasons[name] = dict(zip(taxonomy.reason_keys, reasons, strict=True))


def _check_images(report: CheckReport, reading: Reading, scenes: Sequence[Scene], decode: bool) -> None:
    if not reading.has_images:
        report.warnings.append("images not checked: none beside the label files (give images=)")
    else:
        report.images = _decode_all(report, scenes) if decode else "present, not decoded"


def _decode_all(report: CheckReport, scenes: Sequence[Scene]) -> str:
    sizes: FrameSizes = {}
    for scene in scenes:
        for frame in scene.frames:
            if frame not in sizes:
                sizes[frame] = None
                try:
                    sizes[frame] = decode_frames([frame])[0].size
                except DataError as error:
                    report.errors.append(str(error))
        found = {size for frame in scene.frames if (size := sizes[frame])}
        if len(found) > 1:
            listed = ", ".join(f"{frame} {sizes[frame]}" for frame in scene.frames)
            problem = f"scene {scene.id!r}: frames differ in size: {listed}; bring them to one size"
            report.errors.append(one_line(problem))
    return f"{sum(size is not None for size in sizes.values())} of {len(sizes)} decoded"


_Predicate = Callable[[tuple[int, ...], tuple[int, ...]], object]


def _reason_indices(taxonomy: Taxonomy, action: int, supports: bool) -> list[int]:
    return [i for i, r in enumerate(taxonomy.reasons) if r.action == action and r.supports == supports]


def _contradiction_tests(taxonomy: Taxonomy) -> dict[str, _Predicate]:
    names = taxonomy.action_names
    tests: dict[str, _Predicate] = {"no action": lambda a, r: not any(a), "no reason": lambda a, r: not any(r)}
    for i, j in taxonomy.exclusive:
        tests[f"{names[i]} and {names[j]}"] = lambda a, r, i=i, j=j: a[i] and a[j]
        tests[f"neither {names[i]} nor {names[j]}"] = lambda a, r, i=i, j=j: not a[i] and not a[j]
    for says, *sides in taxonomy.contradictions:
        tests[says] = lambda a, r, sides=sides: all(any(r[i] for i in side) for side in sides)
    for index, name in enumerate(names):
        own, against = (_reason_indices(taxonomy, index, supports) for supports in (True, False))
        if own:
            tests[f"{name} without a reason for it"] = lambda a, r, index=index, own=own: (
                a[index] and not any(r[i] for i in own)
            )
        if against:
            tests[f"{name} with a reason against it"] = lambda a, r, index=index, against=against: (
                a[index] and any(r[i] for i in against)
            )
    return tests


def _contradictions(scenes: Sequence[Scene], taxonomy: Taxonomy) -> list[str]:
    labelled = [(s.actions, s.reasons) for s in scenes if s.actions and s.reasons]
    counts = {name: sum(bool(test(a, r)) for a, r in labelled) for name, test in _contradiction_tests(taxonomy).items()}
    found = [f"{count} scenes: {name}" for name, count in counts.items() if count]
    splits_of: dict[str, set[str]] = {}
    for scene in scenes:
        if name := scene.recording or recording_of_id(scene.id):
            splits_of.setdefault(name, set()).add(scene.split)
    if shared := sum(len(splits) > 1 for splits in splits_of.values()):
        found.append(f"{shared} of {len(splits_of)} recordings are in more than one split")
    return found


def print_report(report: CheckReport) -> None:
    """Print a report for people; of many errors the first 20 and how many there are."""
    print(f"{one_line(report.root)}: {report.format}; images: {report.images}")
    _print_table(report)
    for why, count in report.dropped.items():
        print(f"dropped: {count} ({why})")
    for kind, messages in (("warning", report.warnings), ("error", report.errors)):
        for message in messages[:NUM_SHOWN]:
            print(f"{kind}: {one_line(message)}")
        if len(messages) > NUM_SHOWN:
            print(f"{kind}: {len(messages) - NUM_SHOWN} more, {len(messages)} in all")
    print(f"{len(report.errors)} errors, {len(report.warnings)} warnings")


def _print_table(report: CheckReport) -> None:
    splits = list(report.splits)
    rows = [("scenes", report.splits), *([("text", report.texts)] if report.texts else [])]
    for table in (report.actions, report.reasons):
        names = dict.fromkeys(name for counts in table.values() for name in counts)
        rows += [(name, {s: table.get(s, {}).get(name, 0) for s in splits}) for name in names]
    width = max(18, *(len(name) + 1 for name, _ in rows))
    print(" " * width + "".join(f"{split:>9}" for split in splits))
    for name, counts in rows:
        print(f"{name:{width}}" + "".join(f"{counts[split]:9,}" for split in splits))


def main_check(
    root: str,
    format: Layout | Literal["auto"] = "auto",
    images: str | None = None,
    subset: Literal["all", "single", "grouped"] = "all",
    json: bool = False,
    decode: bool = True,
    num_frames: int = 2,
    taxonomy: str = "bdd_oia",
) -> int:
    """Check a data set and print the findings.

    Args:
        root: folder of the label files, or of pictures, or one picture or video.
        format: its layout; found out if "auto".
        images: folder of the pictures, where they do not lie beside the labels.
        subset: count every scene, or the paper's one-action-one-reason scenes after their 8:2 split (``single``), or
            after one that keeps recordings whole (``grouped``).
        json: print one JSON object instead of a table.
        decode: open every picture; False only looks whether it exists.
        num_frames: M, the most frames of a scene; their pictures are checked.
        taxonomy: label set, a ``.yaml`` file or the name of a shipped one.

    Returns:
        The exit code: 1 where a row or picture cannot be used, else 0.
    """
    report = check_source(root, format, images, subset, decode, num_frames, load_taxonomy(taxonomy))
    if json:
        print(json_format.dumps(dataclasses.asdict(report), indent=2))
    else:
        print_report(report)
    return report.exit_code
