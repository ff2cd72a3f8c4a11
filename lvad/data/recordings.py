"""Which drive a scene was cut from: neighbouring scenes of one drive look alike."""

import re
from typing import Final

from lvad.types import AnsweredScene, Scene

_RECORDING: Final = re.compile(r"([0-9a-f]{8})-[0-9a-f]{8}(_[0-9]+)?")


def recording(scene_id: str) -> str | None:
    """The drive that a BDD100K id ("0001542f-ec815219") was cut from, its first 8 digits; None for other ids."""
    match = _RECORDING.fullmatch(scene_id)
    return match[1] if match else None


def drive_of(scene: Scene | AnsweredScene) -> str:
    """The recording of a scene; one that names none is a recording of its own."""
    return scene.recording or recording(scene.id) or scene.id
