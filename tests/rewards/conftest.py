"""A CLIP with random weights around a random captioner's vision tower."""

import pytest


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    from lvad.commands.embedded import make_clip, make_vlm

    root = tmp_path_factory.mktemp("clip")
    make_vlm(root / "vlm", vocab_size=320, num_scenes=20)
    make_clip(root / "clip", root / "vlm")
    return root / "clip"
