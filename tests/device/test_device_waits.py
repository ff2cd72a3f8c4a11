"""How often the host waits for the device in one step of the main job: 8 scenes, 8 completions each."""

import pytest

# Reads of the device, and copies to it that are waited for, at most. `python tests/device/waits.py FOLDER` says where.
BOUNDS = {
    "encode": (2, 0),  # which scenes they are, and the tokens of new ones, which are kept on the host
    "generate": (8, 0),  # five looks at whether all have ended, one every eight tokens
    "reference": (1, 0),
    "reward": (2, 0),
    "logprobs": (1, 0),
    "rest of the step": (3, 0),
    "rest": (1, 0),
}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def waits(on_device):
    return on_device("waits")


@pytest.mark.parametrize("phase", BOUNDS)
def test_the_host_seldom_waits(waits, phase):
    reads, uploads = BOUNDS[phase]
    found = waits.get(phase, {"reads": 0, "uploads": 0})
    assert found["reads"] <= reads
    assert found["uploads"] <= uploads


def test_every_phase_has_a_bound(waits):
    assert set(waits) <= set(BOUNDS)
