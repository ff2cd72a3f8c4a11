"""What the model sees of a frame does not depend on where it is resized."""

import pytest


@pytest.fixture(scope="module")
def compared(on_device):
    return on_device("pixels")


@pytest.mark.parametrize("older", [False, True], ids=["torchvision's processor", "PIL's processor"])
def test_frames_that_need_resizing_are_equal_on_host_and_device(compared, older):
    found = compared[older]
    assert found["processor"].endswith("Pil") == older, "transformers chooses its image processors by other names"
    assert "error" not in found
    assert found["pixels_spread"] > 0.01  # there is something to see
    assert found["pixels"] < 1e-6
    assert found["tokens_spread"] > 0.1
    assert found["tokens"] < 1e-3
