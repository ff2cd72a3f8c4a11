"""Frames and runs that the interface is asked about."""

import pytest


@pytest.fixture(scope="session")
def drawn_frames(drawn_root):
    """The files of two frames of one scene, oldest first."""
    from lvad.data.lastframe import read_lastframe

    return [str(path) for path in read_lastframe(drawn_root, 2, None).scenes[0].frames]
