"""docs/families.md: every cell of its table is a test that exists and is run for that family."""

import ast
from pathlib import Path

import pytest
from tiny_families import FAMILIES

from lvad.policy import families

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/families.md").read_text()
TABLE = PAGE.split("<!-- table: families -->\n")[1].split("<!-- end of table -->")[0].splitlines()
EXACT, COMMANDS = ROOT / "tests/policy/test_families.py", ROOT / "tests/commands/test_export_families.py"
GRADIENTS = (EXACT, "test_log_probabilities_and_gradients_equal_those_of_separate_sequences")
STEP = (COMMANDS, "test_a_step_and_an_export")
TESTS = {
    "describe": [
        (EXACT, "test_the_sampler_draws_by_inversion_of_the_plain_models_law"),
        (EXACT, "test_the_sampler_of_static_shapes_draws_the_same"),
    ],
    "fit, LoRA": [GRADIENTS, STEP],
    "fit, full": [GRADIENTS, STEP],
    "KL": [(EXACT, "test_the_reference_is_the_start"), (EXACT, "test_a_whole_models_reference_is_a_copy")],
    "greedy = transformers": [(EXACT, "test_greedy_texts_are_those_of_generate")],
    "export = reload": [(EXACT, "test_an_export_says_the_same_in_plain_transformers_and_read_again"), STEP],
}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def run_for_all_families(path, name):
    """Whether a test of that name is parametrised over all families."""
    tree = ast.parse(path.read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    marks = " ".join(ast.unparse(mark) for mark in found.decorator_list)
    every = "pytest.mark.parametrize('name', FAMILIES)"
    named = [ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign) and "families" in marks]
    return every in marks or every in named


def test_every_cell_is_a_test():
    header, _, *rows = TABLE
    assert cells(header)[3:] == list(TESTS)
    assert [cells(row)[0].strip("`") for row in rows] == list(FAMILIES)
    assert all(cell == "yes" for row in rows for cell in cells(row)[3:])


@pytest.mark.parametrize(("path", "name"), sorted({test for tests in TESTS.values() for test in tests}))
def test_a_test_of_the_table_is_run_for_every_family(path, name):
    assert run_for_all_families(path, name)


def test_every_known_type_has_a_tiny_model():
    assert set(families.FAMILIES) == {name.removesuffix("_qwen3") for name in FAMILIES}


def test_the_page_names_the_list_of_text_models():
    assert "`TEXT_MODEL_TYPES`" in PAGE


def header_of(file):
    """The comment that a file of ``configs/models`` begins with, as one line."""
    lines = (ROOT / "configs/models" / file).read_text().splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def test_the_table_of_models_says_what_each_file_says_of_itself():
    section = PAGE.split("## Use a model")[1].split("\n## ")[0]
    rows = [cells(line) for line in section.splitlines() if line.startswith("| `") and ".yaml" in line]
    assert sorted(row[0].strip("`") for row in rows) == sorted(p.name for p in (ROOT / "configs/models").iterdir())
    for file, _, stage, parameters, memory, licence in rows:
        header = header_of(file.strip("`"))
        assert f"{parameters} parameters" in header
        assert f"take {memory} of a GPU" in header
        assert f"Licence: {licence}." in header
        assert ("clip_reward.yaml" in header) == (stage == "reward")
