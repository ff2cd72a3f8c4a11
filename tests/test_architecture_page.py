"""The map of the packages on docs/architecture.md is that of the folder and of the layers in pyproject.toml."""

import re
import tomllib

from pages import ROOT, text_of

ROWS = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+) \| `(.+)` \|$", text_of("docs/architecture.md"), re.M)


def layers():
    """The layers of pyproject.toml, each with its packages, the top one first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if contract["type"] == "layers"]
    return [layer.split(" | ") for layer in contract["layers"]]


def test_the_rows_are_in_the_order_of_the_layers():
    expected = [(str(i), name) for i, layer in enumerate(layers(), start=1) for name in layer]
    assert [(layer, name) for layer, name, _, _ in ROWS] == expected


def test_every_package_and_module_has_a_row():
    entries = [path for path in (ROOT / "lvad").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert sorted(name for _, name, _, _ in ROWS) == sorted(path.stem for path in entries if path.stem != "__init__")


def test_the_file_to_read_first_is_one_of_the_package():
    for _, name, sentence, file in ROWS:
        assert (ROOT / file).is_file(), file
        assert file == f"lvad/{name}.py" or file.startswith(f"lvad/{name}/")
        assert len(sentence.split()) > 3
