"""Label sets: the possible actions of a scene and their reasons, as data. BDD-OIA's ships with lvad as the default."""

from typing import Final

from lvad.taxonomy.files import FILE, dump_taxonomy, find_taxonomy, load_taxonomy, parse_taxonomy
from lvad.taxonomy.label_set import NONE, Action, Contradiction, Reason, Taxonomy

BDD_OIA: Final = load_taxonomy("bdd_oia")
"""4 actions and 21 reasons."""

__all__ = [
    "BDD_OIA",
    "FILE",
    "NONE",
    "Action",
    "Contradiction",
    "Reason",
    "Taxonomy",
    "dump_taxonomy",
    "find_taxonomy",
    "load_taxonomy",
    "parse_taxonomy",
]
