"""Refuse what was made with one label set and is used with another."""

from pathlib import Path
from typing import Any

from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, FILE, Taxonomy, find_taxonomy


def trainer_taxonomy(trainer: Any) -> Taxonomy:
    """Return the label set of a trainer's data; BDD-OIA's where the data have none."""
    return getattr(getattr(trainer, "datamodule", None), "taxonomy", BDD_OIA)


def folder_taxonomy(folder: Path) -> Taxonomy:
    """Read the label set of a run folder; BDD-OIA's where none was written.

    Raises:
        DataError: for a file that cannot be read.
    """
    try:
        return find_taxonomy(folder) or BDD_OIA
    except ValueError as error:
        raise DataError(f"{error}; restore the file, or run the stage again") from error


def check_folder_taxonomy(folder: Path, taxonomy: Taxonomy) -> None:
    """Refuse a run or an exported model that was made with another label set; a folder without one passes.

    Raises:
        DataError: naming the folder and the difference.
    """
    if (folder / FILE).is_file():
        check_same_taxonomy(folder_taxonomy(folder), taxonomy, folder)


def check_same_taxonomy(made_with: Taxonomy, taxonomy: Taxonomy, where: Path | str) -> None:
    """Refuse what was made with another label set.

    Args:
        made_with: the label set that it was made with.
        taxonomy: the label set of the data.
        where: its name or path, for the message.

    Raises:
        DataError: naming the difference.
    """
    if differences := made_with.differences(taxonomy):
        problem = f"was made with the label set {made_with.name!r}, the data have {taxonomy.name!r}"
        remedy = "set data.taxonomy to that set, or start from a model that was made without it"
        raise DataError.at(where, "", f"{problem}: {'; '.join(differences)}", remedy)
