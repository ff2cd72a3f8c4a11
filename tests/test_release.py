"""What a release names in several places is the same in all of them."""

import tomllib
from pathlib import Path

import yaml

import lvad

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["project"]["version"] == citation["version"] == lvad.__version__
    assert f"## {lvad.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_sdist_has_what_the_wheel_is_built_from():
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]
    needed = {*targets["wheel"]["packages"], *targets["wheel"]["force-include"], "LICENSE", "README.md"}
    assert needed <= set(targets["sdist"]["include"])


def test_the_package_says_that_it_is_typed():
    """Type checkers use the annotations of an installed package only where this file is; .ci/wheel looks for it."""
    assert (ROOT / "lvad/py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["project"]["classifiers"]


def test_forms_of_issues_are_forms():
    for file in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(file.read_text())
        if file.name != "config.yml":
            assert {"name", "description", "body"} <= set(form)
            assert all({"type", "id", "attributes"} <= set(part) for part in form["body"])
