"""On the test device: one step of every other stage, what is done with the results, and what is seen of a frame."""

import pytest
from jobs import PIXELS, STAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(on_device):
    return on_device("jobs", *STAGES, PIXELS)


@pytest.mark.parametrize("name", STAGES)
def test_it_runs_on_a_device(done, name):
    assert done[name]["code"] == STAGES[name].code, done[name]["said"] + done[name]["at"]
    assert STAGES[name].says in done[name]["said"]


@pytest.mark.parametrize("older", [False, True], ids=["torchvision's processor", "PIL's processor"])
def test_frames_that_need_resizing_are_equal_on_host_and_device(done, older):
    found = done[PIXELS][older]
    assert found["processor"].endswith("Pil") == older, "transformers chooses its image processors by other names"
    assert "error" not in found
    assert found["pixels_spread"] > 0.01  # there is something to see
    assert found["pixels"] < 1e-6
    assert found["tokens_spread"] > 0.1
    assert found["tokens"] < 1e-3
