"""The budget ledger: which scenes each stage saw, so that none of them is a test scene of any later stage.

A run writes it beside its numbers and into the model that it exports; the next stage reads it from there.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lvad.data.reading import read_json
from lvad.errors import DataError
from lvad.types import Scene

LEDGER: Final = "ledger.json"
STREAMED: Final = ", unlabelled, streamed"
"""How the use of footage ends."""

LABELLED: Final = ", labelled"
"""How the use of scenes that came with their labels ends."""

PSEUDO_LABELLED: Final = ", pseudo-labelled"
"""How the use of scenes ends whose labels a model gave: they cost no label."""

UNKNOWN: Final = (
    "nothing tells which scenes the run has seen",
    "restore it, or run the stage again",
)
"""Of a run without a ledger: what is wrong, and what to do."""

Ledger = dict[str, list[str]]
"""Use ("CLIPReward train, labelled") to the sorted ids of its scenes; of streamed footage its sources."""


def stage_ledger(stage: str, scenes: Mapping[str, Iterable[Scene]]) -> Ledger:
    """The ledger of one stage: the training scenes of its fit, and those it is selected on.

    Args:
        stage: name of the stage.
        scenes: scenes of the splits; ``test`` is left out.
    """
    found: Ledger = {}
    for split in ("train", "val"):
        for scene in scenes.get(split, ()):
            is_bare = scene.actions is None and scene.reasons is None and not scene.captions  # a text is a label too
            kind = ", unlabelled" if is_bare else LABELLED
            kind = PSEUDO_LABELLED if scene.is_pseudo else kind
            found.setdefault(f"{stage} {split}{kind}", []).append(scene.id)
    return {use: sorted(ids) for use, ids in found.items()}


def stream_ledger(stage: str, sources: Iterable[object]) -> Ledger:
    """The ledger of streamed footage, whose scenes are too many to be listed: where they come from and how many.

    Args:
        stage: name of the stage.
        sources: each says in its text where it lies and what it holds.
    """
    found = [str(source) for source in sources]
    return {f"{stage} train{STREAMED}": found} if found else {}


def ledger_of_run(folder: Path) -> Ledger:
    """The ledger of a run.

    Raises:
        DataError: if there is none, or the file is no ledger.
    """
    if not (folder / LEDGER).is_file():
        raise DataError.at(folder / LEDGER, "", *UNKNOWN)
    return read_ledger(folder)


def read_ledger(folder: Path) -> Ledger:
    """The ledger of a run or of an exported model; empty where there is none.

    Raises:
        DataError: if the file is no ledger.
    """
    path = folder / LEDGER
    if not path.is_file():
        return {}
    return validated(read_json(path, dict), path)


def validated(content: Any, where: Path) -> Ledger:
    """The content of a file or a checkpoint, if it is a ledger.

    Raises:
        DataError: if it is none.
    """
    for use, ids in content.items() if isinstance(content, dict) else [("ledger", content)]:
        if not isinstance(use, str) or not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            problem = f"{use!r:.80} must be a list of scene ids"
            raise DataError.at(where, "", problem, "restore the file, or run the stage again")
    return content


def merge(ledgers: Iterable[Ledger]) -> Ledger:
    """All uses; the same use twice has the scenes of both."""
    merged: dict[str, set[str]] = {}
    for ledger in ledgers:
        for use, ids in ledger.items():
            merged.setdefault(use, set()).update(ids)
    return {use: sorted(merged[use]) for use in sorted(merged)}


def labelled_ids(ledger: Ledger, part: str = "") -> set[str]:
    """The scenes whose labels were used, over all stages and each once.

    Args:
        ledger: of a run, which holds the uses of the stages that it is built on too.
        part: ``train`` or ``val`` alone; all uses if empty.
    """
    ending = f" {part}{LABELLED}" if part else LABELLED
    return {name for use, ids in ledger.items() if use.endswith(ending) for name in ids}


def check_leakage(ledger: Ledger, test_ids: Iterable[str]) -> None:
    """Refuse a test on scenes that a stage has seen.

    Raises:
        DataError: naming the use and the scenes.
    """
    held_out = set(test_ids)
    for use, ids in ledger.items():
        if leaked := sorted(held_out.intersection(ids)):
            raise DataError(
                f"{len(leaked)} test scenes were seen before, as {use}: {leaked[:5]}; test on other scenes, or train "
                "that stage without them"
            )


def dump(ledger: Ledger) -> str:
    """The file's text."""
    return json.dumps(ledger, indent=0, sort_keys=True) + "\n"
