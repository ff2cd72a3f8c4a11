"""Tables of measured figures are those of the records; the keys of a configuration are those of the constructors."""

import re
from pathlib import Path

import configuration
import pytest
from tables import BLOCK, FILES, TABLES, rebuilt, record

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {name: (ROOT / name).read_text() for name in FILES}
WORDS = {
    "README.md": {"family", "about"},
    "docs/results.md": set(),
    "docs/performance.md": {"section", "tried"},
    "docs/label_efficiency.md": {"stage"},
}
"""The first cells of the tables that show no record."""


@pytest.mark.parametrize("name", FILES)
def test_a_document_has_the_tables_of_its_records(name):
    assert rebuilt(TEXTS[name]) == TEXTS[name], "run python benchmarks/tables.py"


def test_every_table_is_shown_and_no_other_shows_figures():
    shown = [block[1] for text in TEXTS.values() for block in BLOCK.findall(text)]
    assert sorted(shown) == sorted(TABLES)
    for name, text in TEXTS.items():
        rest = re.sub(r"```.*?```", "", BLOCK.sub("", text), flags=re.S)
        headers = {line.split("|")[1].strip() for line in re.findall(r"(?m)^(\|.*)\n\|[-| ]+\|$", rest)}
        assert headers <= WORDS[name]


def test_a_table_that_parts_from_its_record_is_found():
    text = TEXTS["README.md"]
    assert rebuilt(text.replace("| 10.0 |", "| 99.0 |", 1)) == text
    with pytest.raises(KeyError, match="nothing"):
        rebuilt("<!-- table: nothing -->\n<!-- end of table -->\n")


ROWS = {
    "clip_reward": lambda found: found["runs"],
    "estimators": list,
    "gpu": lambda found: [section | {"device": found["machine"]["card"]} for section in found["sections"].values()],
    "label_efficiency": lambda found: found["runs"],
    "limits": lambda found: [found],  # one run of one commit
    "main_job": list,
    "pipeline": list,
    "rloo_step": list,
    "toy": list,
}
"""The runs that a record holds."""


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.json")))
def test_every_run_of_a_record_names_its_commit_command_and_device(name):
    runs = ROWS[name](record(name))
    assert runs
    for run in runs:
        assert re.fullmatch(r"[0-9a-f]{7,}\+?", run["commit"])
        assert run["device"]
        assert run["command"].startswith(("python benchmarks/", "lvad "))


def test_time_memory_and_ratio_of_a_row_are_of_one_run():
    for row in record("rloo_step"):
        assert re.fullmatch(r"[0-9a-f]{7,}\+?", row["commit"])
        if "trl" in row:
            assert row["speedup"] == pytest.approx(row["trl"]["wall_s"] / row["lvad"]["wall_s"], rel=1e-6)
            assert row["memory_ratio"] == pytest.approx(row["trl"]["peak_mib"] / row["lvad"]["peak_mib"], rel=1e-6)


def test_the_configuration_page_has_the_keys_of_the_constructors():
    assert configuration.PAGE.read_text() == configuration.page(), "run python tools/configuration.py"


def test_every_argument_of_a_listed_class_is_on_the_page():
    """Each with a type and a meaning: a docstring that leaves one out ends the script."""
    classes = [one for section in configuration.sections() for one in section.classes]
    assert len(classes) == len(set(classes)) > 40
    text = configuration.page()
    for one in classes:
        part = text.split(f"### `{configuration.class_path(one)}`\n")[1].split("\n#")[0]
        rows = re.findall(r"(?m)^\| `(\w+)` \| (?:`[^`]+`|a class of .*?) \| .+? \| .+ \|$", part)
        assert rows == [parameter.name for parameter in configuration.parameters(one)]
