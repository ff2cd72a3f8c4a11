"""The recording (drive) that a scene was cut from: scenes of one recording look alike and stay in one split."""

import re
from typing import Final

from lvad.types import AnsweredScene, Scene

_RECORDING: Final = re.compile(r"([0-9a-f]{8})-[0-9a-f]{8}(_[0-9]+)?")


def recording_of_id(scene_id: str) -> str | None:
    """Return the recording of a BDD100K id ("0001542f-ec815219"), its first 8 digits; None for other ids."""
    match = _RECORDING.fullmatch(scene_id)
    return match[1] if match else None


def recording_of(scene: Scene | AnsweredScene) -> str:
    """Return the recording of a scene; a scene that names none is a recording by itself."""
    return scene.recording or recording_of_id(scene.id) or scene.id
