"""People's own scenes: a line is a whole scene or an error of one line, and a broken one costs no other."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hostile import break_json, cases, one_line, refused
from layouts import picture, write_video

from lvad.cli import main
from lvad.data.layouts import read_source
from lvad.data.reading import SPLITS
from lvad.errors import DataError
from lvad.facts import ATTRIBUTES
from lvad.types import Scene, VideoFrame

VIDEO_S = 1.0
WHOLE: dict[str, Any] = {"id": "whole", "frames": ["a_0.jpg", "a_1.jpg"], "split": "train"}
LINES: tuple[dict[str, Any], ...] = (
    WHOLE | {"id": "labels", "actions": ["stop"], "reasons": ["traffic sign"], "recording": "drive"},
    WHOLE
    | {"id": "texts", "text": ["A car.", "Night."], "facts": {name: all_[0] for name, all_ in ATTRIBUTES.items()}},
    {"video": "v.mp4", "start_s": 0.2, "end_s": 0.8, "split": "test"},
    {
        "images": ["a_0.jpg"],
        "messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "Night."}],
    },
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    for name in WHOLE["frames"]:
        picture(folder / name)
    write_video(folder / "v.mp4", 10)
    return folder / "scenes.jsonl"


def is_whole(scene: Scene) -> bool:
    texts = [scene.id, scene.recording, *scene.captions, *(scene.facts or {}), *(scene.facts or {}).values()]
    "".join(texts).encode()
    for labels, length in ((scene.actions, 4), (scene.reasons, 21)):
        if labels is not None and (len(labels) != length or not set(labels) <= {0, 1}):
            return False
    shown = [0 <= f.time_s <= VIDEO_S if isinstance(f, VideoFrame) else f.is_file() for f in scene.frames]
    return bool(scene.id) and scene.split in SPLITS and len(shown) in (1, 2) and all(shown)


@cases("lines of scenes.jsonl")
def test_lines(path: Path, rng: random.Random) -> None:
    broken = [break_json(rng.choice(LINES), rng) for _ in range(rng.randrange(1, 4))]
    path.write_bytes(b"\n".join([json.dumps(WHOLE).encode(), *broken]))
    reading = read_source(path)
    for error in reading.errors:
        one_line(error, path)
    assert all(map(is_whole, reading.scenes))
    names = [(scene.split, scene.id) for scene in reading.scenes]
    assert len(set(names)) == len(names)
    is_unreadable = len(reading.errors) == 1 and "cannot be read" in str(reading.errors[0])  # no UTF-8
    assert is_unreadable or names[0] == ("train", "whole")
    with refused(DataError, path):
        reading.require()


@pytest.mark.parametrize(
    "line",
    [
        '{"video": "v.mp4", "start_s": NaN}',
        '{"video": "v.mp4", "end_s": Infinity}',
        '{"video": "v.mp4", "end_s": 1e999}',
        f'{{"video": "v.mp4", "end_s": {"9" * 400}}}',
        f'{{"video": "v.mp4", "end_s": {"9" * 5000}}}',
        '{"video": "v.mp4", "end_s": true}',
        '{"video": "v.mp4\\u0000"}',
        '{"video": "a_0.jpg"}',
        '{"frames": ["a_0.jpg\\u0000"]}',
        '{"frames": ["\\ud800.jpg"]}',
        '{"frames": ["a_0.jpg"], "id": "\\u202e"}',
        '{"frames": ["a_0.jpg"], "id": "\\ud800"}',
        '{"frames": ["a_0.jpg"], "text": "\\ud800"}',
        '{"frames": ["a_0.jpg"], "recording": {}}',
        '{"frames": "a_0.jpg"}',
        '{"frames": [["a_0.jpg"]]}',
        "[" * 100_000,
        "\x00",
    ],
    ids=range(18),
)
def test_a_hostile_line_is_named(line: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(json.dumps(WHOLE) + "\n" + line + "\n")
    reading = read_source(path)
    assert [scene.id for scene in reading.scenes] == ["whole"]
    (error,) = reading.errors
    one_line(error, path, "line 2")
    assert main(["data", "check", str(path)]) == 1
    assert "1 errors" in capsys.readouterr().out
