"""Lines with a span of a video: what they mean, and what each fault of them is called."""

import json

import pytest
from layouts import write_video

from lvad.data.check import check_source
from lvad.data.convert import convert_to_jsonl
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.layouts import read_source
from lvad.data.source import Source
from lvad.errors import DataError
from lvad.types import VideoFrame

STOP = {"actions": ["stop"], "reasons": ["traffic sign"]}


def times_of(scene):
    return [frame.time_s for frame in scene.frames]


@pytest.fixture
def mine(tmp_path):
    """A video of two seconds, whose frame i is a grey of 10 i, and a function that writes lines beside it."""
    write_video(tmp_path / "a.mp4", 20)

    def lines(*rows):
        (tmp_path / "scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "scenes.jsonl"

    return lines


def test_a_span_gives_the_last_frames_in_order_of_time(mine, tmp_path):
    path = mine({"video": "a.mp4", "start_s": 0.5, "end_s": 1.5, "text": "It stops."}, {"video": "a.mp4"})
    part, whole = read_source(path, num_frames=3, fps=2.0).require().scenes
    video = tmp_path / "a.mp4"
    assert (part.id, part.recording, part.captions) == ("a-0.5-1.5", "a", ("It stops.",))
    assert part.frames == tuple(VideoFrame(video, time) for time in (0.5, 1.0, 1.5))
    assert (whole.id, whole.recording) == ("a", "a")
    assert whole.frames == tuple(VideoFrame(video, time) for time in (1.0, 1.5, 2.0))
    data = BDDOIADataModule(Source("jsonl", str(path), num_frames=3, fps=2.0))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.ids == ["a-0.5-1.5", "a"]
    greys = [[round(frame.float().mean().item() / 10) for frame in frames] for frames in batch.frames]
    assert greys == [[5, 10, 15], [10, 15, 19]]


def test_videos_beside_pictures_and_elsewhere(mine, tmp_path):
    path = mine({"id": "x", "video": "../far/v.mov", "end_s": 1, **STOP, "split": "test"})
    (tmp_path / "../far").mkdir()
    write_video(tmp_path / "../far/v.mov", 20)
    (scene,) = read_source(path).require().scenes
    assert (scene.id, scene.recording, scene.split, scene.actions) == ("x", "far/v", "test", (0, 1, 0, 0))
    path.write_text(json.dumps({"video": "v.mov", "end_s": 1}))
    assert times_of(read_source(path, images=tmp_path / "../far").require().scenes[0]) == [0, 1]


def test_spans_of_one_drive_stay_in_one_split(mine, tmp_path):
    for name in ("0001542f-ec815219", "0001542f-ec815220", "00a0f008-3c67908e"):
        write_video(tmp_path / f"{name}.mp4", 20)
    rows = [{"video": f"{name}.mp4"} for name in ("0001542f-ec815219", "0001542f-ec815220", "00a0f008-3c67908e")]
    scenes = read_source(mine(*rows, {"video": "a.mp4", "recording": "monday"})).require().scenes
    assert [scene.recording for scene in scenes] == ["0001542f", "0001542f", "00a0f008", "monday"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"video": "b.mp4"}, r"video '.*b.mp4' is missing; restore it, correct its path, or remove the line"),
        ({"video": "a.ts"}, r"video '.*a.ts' is of a format that is not read; convert it to one of .*.mp4"),
        ({"video": 3}, "video must be a path, got 3"),
        ({"video": "bad.mp4"}, r"bad.mp4: video cannot be decoded \(.*\); fetch the file again, or correct the path"),
        ({"video": "a.mp4", "end_s": 2.5}, "span 0 to 2.5 s is outside the video 'a.mp4', which has 2.00 s; correct"),
        ({"video": "a.mp4", "start_s": 7}, "span 7 to 2 s is outside the video 'a.mp4', which has 2.00 s"),
        ({"video": "a.mp4", "start_s": 1.5, "end_s": 1}, "span is reversed: start_s 1.5 is after end_s 1; exchange"),
        ({"video": "a.mp4", "start_s": "1"}, "start_s must be seconds from the beginning of the video, got '1'"),
        ({"video": "a.mp4", "end_s": -1}, "end_s must be seconds from the beginning of the video, got -1"),
        ({"video": "a.mp4", "end_s": 10**400}, "end_s must be seconds"),
        ({"video": "a.mp4", "end_s": None}, "end_s must be seconds from the beginning of the video, got None"),
        ({"video": "a.mp4", "frames": ["a.jpg"]}, "has frames and a video; give one of them"),
        ({"frames": ["a.jpg"], "start_s": 1}, "has start_s but no video; give the video, or leave it out"),
        ({"video": "a.mpg"}, "the video's length is unknown; give end_s"),
    ],
)
def test_a_fault_of_a_span_is_named_and_check_explains_it(mine, tmp_path, row, said):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    write_video(tmp_path / "a.mpg", 20, fps=25)
    path = mine({"video": "a.mp4"}, {"id": "second", **row})
    with pytest.raises(DataError, match=rf"^{path}, line 2: .*{said}"):
        read_source(path).require()
    report = check_source(path)
    assert (report.exit_code, len(report.errors)) == (1, 1)
    assert report.images == "2 of 2 decoded"  # of the first line


def test_a_video_that_breaks_off_is_found_by_check_and_named_in_a_prediction(mine, tmp_path):
    write_video(tmp_path / "b.mkv", 20)
    path = mine({"video": "a.mp4"}, {"video": "b.mkv", "end_s": 1.9})
    whole = (tmp_path / "b.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(whole[: len(whole) // 3])
    assert [len(read_source(path).errors), check_source(path, num_frames=1).images] == [0, "1 of 2 decoded"]
    assert all("b.mkv: " in error for error in check_source(path, num_frames=1).errors)
    data = BDDOIADataModule(Source("jsonl", str(path), num_frames=1))
    data.setup("predict")
    assert [batch.ids for batch in data.predict_dataloader()] == [["a"]]


def test_lines_with_spans_are_converted_as_they_are_read(mine, tmp_path):
    path = mine({"video": "a.mp4", "start_s": 0.5, "end_s": 1.5, **STOP})
    convert_to_jsonl(path, tmp_path / "deep/mine.jsonl")
    row = json.loads((tmp_path / "deep/mine.jsonl").read_text())
    assert (row["video"], row["start_s"], row["end_s"]) == ("../a.mp4", 0.5, 1.5)
    (one,), (two,) = read_source(path).require().scenes, read_source(tmp_path / "deep/mine.jsonl").require().scenes
    assert two._replace(frames=()) == one._replace(frames=())
    assert times_of(two) == times_of(one)
