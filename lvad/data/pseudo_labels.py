"""Labels that a model gave, which are kept apart from those that people gave."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from lvad.data.ledger import LEDGER, NO_LEDGER, Ledger, read_ledger
from lvad.data.reading import read_flags, read_json
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.taxonomy.compatibility import check_folder_taxonomy
from lvad.types import Scene

PSEUDO_LABELS: Final = "pseudo_labels.json"
"""The file's name in an exported model's folder."""

_ENTRIES: Final = ("actions", "reasons", "probability")
_REMEDY: Final = "restore the file, or run the stage that wrote it again"


class PseudoLabel(NamedTuple):
    """The labels that a model gave to a scene, and how sure it is."""

    actions: tuple[int, ...]
    """A zeros and ones."""
    reasons: tuple[int, ...]
    """R zeros and ones."""
    probability: float
    """Probability that the actions are right, in [0, 1]."""


def read_pseudo_labels(path: Path, taxonomy: Taxonomy = BDD_OIA) -> dict[str, PseudoLabel]:
    """Read a file of pseudo-labels: scene id to label; every scene must have as many as the label set.

    Raises:
        DataError: if it is missing, or an entry is no pseudo-label.
    """
    found = {}
    for name, row in read_json(path, dict).items():
        where = f"scene {name!r:.80}"
        if not isinstance(row, dict) or set(row) != set(_ENTRIES):
            raise DataError.at(path, where, f"must be a mapping of {list(_ENTRIES)}, got {row!r:.80}", _REMEDY)
        probability = row["probability"]
        if type(probability) not in (int, float) or not 0 <= probability <= 1:  # not a number is refused too
            raise DataError.at(path, where, f"probability must be in [0, 1], got {probability!r:.40}", _REMEDY)
        actions = read_flags(row["actions"], (taxonomy.num_actions,), "actions", path, where)
        reasons = read_flags(row["reasons"], (taxonomy.num_reasons,), "reasons", path, where)
        found[name] = PseudoLabel(actions, reasons, float(probability))
    return found


def write_pseudo_labels(folder: Path, labels: Mapping[str, PseudoLabel]) -> Path:
    """Write pseudo-labels into an exported model's folder, and return the path of the file."""
    path = folder / PSEUDO_LABELS
    rows = {name: label._asdict() for name, label in sorted(labels.items())}
    path.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
    return path


def with_pseudo_labels(
    train: Iterable[Scene], pool: Iterable[Scene], path: Path, taxonomy: Taxonomy = BDD_OIA
) -> list[Scene]:
    """Return the labelled training scenes, then the scenes of the pool that a file has labels for, with those labels.

    Raises:
        DataError: for a file that cannot be read, is of another label set, or names only other scenes.
    """
    check_folder_taxonomy(path.parent, taxonomy)
    labels, pool = read_pseudo_labels(path, taxonomy), list(pool)
    if labels and pool and not any(scene.id in labels for scene in pool):
        problem = f"none of its {len(labels)} scenes is a training scene without a label here"
        raise DataError.at(path, "", problem, "take the file and the data of one study")
    added = [
        scene._replace(actions=labels[scene.id].actions, reasons=labels[scene.id].reasons, is_pseudo=True)
        for scene in pool
        if scene.id in labels
    ]
    return [*(scene for scene in train if scene.actions is not None), *added]


def ledger_of_labels(path: Path) -> Ledger:
    """Read the ledger of the stage that wrote a file of pseudo-labels; it lies beside the file.

    Raises:
        DataError: without a ledger, as nothing else tells which labels the stage was trained on.
    """
    if not (path.parent / LEDGER).is_file():
        raise DataError.at(path.parent / LEDGER, "", *NO_LEDGER)
    return read_ledger(path.parent)
