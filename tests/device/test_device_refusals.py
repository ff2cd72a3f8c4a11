"""The test device refuses what an accelerator refuses, and computes what the CPU computes."""

import pytest
from refusals import REFUSED, TAKEN


@pytest.fixture(scope="module")
def tried(on_device):
    return on_device("refusals")


@pytest.mark.parametrize("line", REFUSED)
def test_a_mistake_is_refused(tried, line):
    assert tried[line] is not None
    assert tried[line] != "false"
    assert not tried[line].startswith(("NameError", "SyntaxError", "AttributeError")), tried[line]


@pytest.mark.parametrize("line", TAKEN)
def test_what_is_right_is_taken(tried, line):
    assert tried[line] is None
