"""One step of every other stage on the test device, and what is done with the results."""

import pytest
from jobs import STAGES


@pytest.fixture(scope="module")
def done(on_device):
    return on_device("jobs", *STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_it_runs_on_a_device(done, name):
    assert done[name]["code"] == 0, done[name]["said"] + done[name]["at"]
