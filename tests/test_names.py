"""Every module, public class and public function of lvad has a name of its own, so that a name leads to one thing."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "lvad"
MODULES = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py"))]

SHARED_MODULES = {
    "audit": "the command `lvad audit` beside the room that it calls",
    "data": "the command `lvad data` beside the room that it calls",
    "report": "the command `lvad report` beside the room that it calls",
}
SHARED_NAMES = {
    "run": "the entry of every command, found by this name",
    "make_parser": "the options of every command",
}


def shared(places: dict[str, list[str]]) -> dict[str, list[str]]:
    """The names that stand in more than one place, with the places."""
    return {name: found for name, found in places.items() if len(found) > 1}


def test_modules_have_names_of_their_own():
    places = defaultdict(list)
    for path in MODULES:
        name = path.parent.name if path.name == "__init__.py" else path.stem
        places[name].append(str(path))
    twice = shared(places)
    assert {name: found for name, found in twice.items() if name not in SHARED_MODULES} == {}
    assert twice.keys() >= SHARED_MODULES.keys(), "an exception that is no longer needed"


def test_public_classes_and_functions_have_names_of_their_own():
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.parse((ROOT / path).read_text()).body:
            is_named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if is_named and not node.name.startswith("_"):
                places[node.name].append(f"{path}:{node.lineno}")
    twice = shared(places)
    assert {name: found for name, found in twice.items() if name not in SHARED_NAMES} == {}
    assert twice.keys() >= SHARED_NAMES.keys(), "an exception that is no longer needed"
