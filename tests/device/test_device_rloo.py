"""One step of the main job on the test device: frames, worst batch, sampler, reward, gradient, in every variant."""

import pytest
from jobs import RLOO

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(on_device):
    return on_device("jobs", *RLOO)


@pytest.mark.parametrize("name", RLOO)
def test_it_runs_on_a_device(done, name):
    assert done[name]["code"] == RLOO[name].code, done[name]["said"] + done[name]["at"]
    assert RLOO[name].says in done[name]["said"]
