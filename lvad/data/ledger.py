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
"""Ending of the keys of streamed footage."""

LABELLED: Final = ", labelled"
"""Ending of the keys of scenes that came with their labels."""

PSEUDO_LABELLED: Final = ", pseudo-labelled"
"""Ending of the keys of scenes whose labels a model gave; they cost no label."""

NO_LEDGER: Final = (
    "nothing tells which scenes the run has seen",
    "restore it, or run the stage again",
)
"""Problem and remedy of a run without a ledger."""

Ledger = dict[str, list[str]]
"""Maps a use ("CLIPReward train, labelled") to the sorted ids of its scenes, or to the sources of streamed footage."""


def stage_ledger(stage: str, scenes: Mapping[str, Iterable[Scene]]) -> Ledger:
    """Return the ledger of one stage: its training scenes, and the validation scenes that it is selected on.

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
    """Return the ledger of streamed footage: its sources, as the scenes are too many to be listed.

    Args:
        stage: name of the stage.
        sources: objects whose text (``str``) says where they are and what they hold.
    """
    found = [str(source) for source in sources]
    return {f"{stage} train{STREAMED}": found} if found else {}


def ledger_of_run(folder: Path) -> Ledger:
    """Read the ledger of a run.

    Raises:
        DataError: if there is none, or the file is no ledger.
    """
    if not (folder / LEDGER).is_file():
        raise DataError.at(folder / LEDGER, "", *NO_LEDGER)
    return read_ledger(folder)


def read_ledger(folder: Path) -> Ledger:
    """Read the ledger of a run or of an exported model; empty where there is none.

    Raises:
        DataError: if the file is no ledger.
    """
    path = folder / LEDGER
    if not path.is_file():
        return {}
    return parse_ledger(read_json(path, dict), path)


def parse_ledger(content: Any, where: Path) -> Ledger:
    """Return the content of a file or a checkpoint as a ledger.

    Raises:
        DataError: if it is none.
    """
    for use, ids in content.items() if isinstance(content, dict) else [("ledger", content)]:
        if not isinstance(use, str) or not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            problem = f"{use!r:.80} must be a list of scene ids"
            raise DataError.at(where, "", problem, "restore the file, or run the stage again")
    return content


def merge_ledgers(ledgers: Iterable[Ledger]) -> Ledger:
    """Merge ledgers; a use that occurs in several has the scenes of all of them."""
    merged: dict[str, set[str]] = {}
    for ledger in ledgers:
        for use, ids in ledger.items():
            merged.setdefault(use, set()).update(ids)
    return {use: sorted(merged[use]) for use in sorted(merged)}


def labelled_ids(ledger: Ledger, part: str = "") -> set[str]:
    """Return the scenes whose labels were used, over all stages and each once.

    Args:
        ledger: ledger of a run, which also holds the uses of the stages that it is built on.
        part: only ``train`` or ``val``; all uses if empty.
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


def dump_ledger(ledger: Ledger) -> str:
    """Return the text of a ledger's file."""
    return json.dumps(ledger, indent=0, sort_keys=True) + "\n"
