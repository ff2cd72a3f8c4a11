"""What a loaded run answers: the same as ``lvad predict``, whatever form the frames have."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from small_fits import LORA

import lvad
from lvad.cli import main
from lvad.errors import DataError
from lvad.report.predictions import answer_row


@pytest.fixture(scope="module")
def rloo(lora_run):
    return lvad.load(lora_run)


@pytest.fixture(scope="module")
def answering(fit):
    return fit("action_sft")


@pytest.fixture(scope="module")
def two_stage(fit):
    return fit("two_stage", *LORA)


def predicted(run, frames, tmp_path):
    """The rows of ``lvad predict`` for a folder."""
    checkpoint = next(p for n in ("best", "last") if (p := run / "checkpoints" / f"{n}.ckpt").exists())
    args = ["predict", str(frames), "--ckpt_path", str(checkpoint), "--out", str(tmp_path / "out")]
    assert main([*args, "--predictions.pictures", "false", "--trainer.enable_progress_bar", "false"]) == 0
    return [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """A folder of five frames of a drive."""
    folder = tmp_path_factory.mktemp("sequence")
    generator = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(generator.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / f"drive_{i}.png")
    return folder


def test_descriptions_are_those_of_predict(rloo, lora_run, sequence, tmp_path):
    rows = predicted(lora_run, sequence, tmp_path)
    scenes = rloo.scenes(sequence)
    assert [scene.id for scene in scenes] == [row["id"] for row in rows]
    assert rloo.describe_batch(scenes) == [row["description"] for row in rows]
    rewards = [rloo.score(scene, row["description"])[0].total for scene, row in zip(scenes, rows, strict=True)]
    assert rewards == pytest.approx([row["reward"] for row in rows], abs=1e-6)


@pytest.mark.parametrize("stage", ["action_sft", "two_stage", "study/reader"])
def test_decisions_are_those_of_predict(fit, stage, answering, two_stage, sequence, tmp_path):
    run_folder = {"action_sft": answering, "two_stage": two_stage}.get(stage) or fit(stage)
    rows = predicted(run_folder, sequence, tmp_path)
    run = lvad.load(run_folder)
    found = run.decide_batch(run.scenes(sequence))
    assert found == run.decide_batch(run.scenes(sequence))
    for row, said in zip(rows, found, strict=True):
        assert (row["id"], row.get("description", "")) == (said.id, said.description)
        assert (row["answer"], row["is_valid"]) == (said.answer, said.is_valid)
        assert (row["actions"], row["reasons"]) == ([*said.actions], [*said.reasons])
        for name in ("action_probabilities", "reason_probabilities"):
            assert row.get(name, {}) == {key: round(p, 4) for key, p in getattr(said, name).items()}


def test_every_action_has_a_probability(answering, drawn_frames):
    said = lvad.load(answering).decide(drawn_frames)
    assert [*said.action_probabilities] == ["forward", "stop", "left", "right"]
    assert all(0 <= p <= 1 for p in said.action_probabilities.values())


def test_a_picture_may_be_a_file_an_image_or_an_array(rloo, sequence):
    path = sequence / "drive_0.png"
    image = Image.open(path)
    forms = [path, str(path), image, np.asarray(image), [path], np.asarray(image)[None]]
    shown = [rloo.frames(form) for form in forms]
    assert all(torch.equal(frames, shown[0]) for frames in shown)
    assert shown[0].shape == (1, 3, 96, 128)
    assert len(set(rloo.describe_batch(forms))) == 1


def test_the_last_frames_count_in_their_order(rloo, sequence):
    files = sorted(sequence.iterdir())
    assert torch.equal(rloo.frames(files), rloo.frames(files[-2:]))
    assert not torch.equal(rloo.frames(files), rloo.frames(files[:-3:-1]))


def test_pictures_are_reduced_as_those_of_the_training(rloo, sequence):
    small = rloo.loader._replace(image_size_px=64)
    assert small.read(sequence / "drive_0.png")[1].shape == (1, 3, 48, 64)
    image = Image.open(sequence / "drive_0.png")
    assert torch.equal(small.read(image)[1], small.read(sequence / "drive_0.png")[1])
    assert image.size == (128, 96)  # the caller's own


def test_a_picture_that_stands_on_its_side_is_turned(rloo, sequence, tmp_path):
    image, exif = Image.open(sequence / "drive_0.png").convert("RGB"), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert rloo.frames(Image.open(tmp_path / "turned.jpg")).shape == (1, 3, 128, 96)
    assert torch.equal(rloo.frames(Image.open(tmp_path / "turned.jpg")), rloo.frames(tmp_path / "turned.jpg"))


def test_a_video_is_read_in_time_order(rloo, tmp_path):
    """Three seconds of black, grey and white; the last two frames are what the model sees."""
    path = tmp_path / "drive.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for value in (0, 0, 128, 128, 255, 255):
            picture = np.full((96, 128, 3), value, dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    frames = rloo.frames(path).float()
    assert frames.shape == (2, 3, 96, 128)
    assert frames.mean((1, 2, 3)).tolist() == pytest.approx([128, 255], abs=4)
    scenes = rloo.scenes(path)
    assert [len(scene.frames) for scene in scenes] == [1, 2, 2]
    assert rloo.describe(path) == rloo.describe(scenes[-1])


def test_what_a_run_cannot_do_is_refused_with_the_remedy(rloo, answering, clip_folder, sequence):
    path = sequence / "drive_0.png"
    with pytest.raises(
        DataError, match=r"\(RLOOPolicy\) does not decide, it can describe, score, sample; load the run"
    ):
        rloo.decide(path)
    run = lvad.load(answering)
    assert run.abilities == ("decide",)
    for ask in (run.describe, run.sample):
        with pytest.raises(DataError, match=r"\(ActionSFT\) does not .*; load an RLOO run \(configs/rloo\.yaml\)"):
            ask(path)
    with pytest.raises(DataError, match="does not score, it can decide; load a run with a reward"):
        run.score(path, "stop")
    with pytest.raises(DataError, match="does not describe, it can score"):
        lvad.load(clip_folder).describe(path)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "needs at least one frame"),
        (7, r"a frame must be a file, a PIL image or a NumPy array uint8\[H, W, 3\], got int"),
        (np.zeros((3, 8, 8), np.uint8), r"got ndarray uint8\[3, 8, 8\]"),
        (np.zeros((8, 8, 3), np.float32), r"got ndarray float32\[8, 8, 3\]"),
        (torch.zeros(3, 8, 8), r"got Tensor torch.float32\[3, 8, 8\]"),
        ("missing.png", r"missing\.png: image is missing"),
        (".", r"is a folder, not the frames of one scene; give its frames as a list"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "frame 1, scene 'scene': is 8x9, but frame 0"),
    ],
)
def test_frames_that_cannot_be_used_are_named(rloo, frames, message):
    with pytest.raises(DataError, match=message):
        rloo.describe(frames)


def test_a_cut_file_is_named(rloo, sequence, tmp_path):
    (tmp_path / "cut.png").write_bytes((sequence / "drive_0.png").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut\.png: image cannot be decoded"):
        rloo.describe(tmp_path / "cut.png")
    with pytest.raises(DataError, match="frame 0: image cannot be decoded"):
        rloo.describe(Image.open(tmp_path / "cut.png"))
    with pytest.raises(DataError, match=r"cut\.png: image cannot be decoded"):
        rloo.scenes(tmp_path)


@pytest.mark.parametrize("texts", [[], [3], ["\ud800"]])
def test_texts_that_cannot_be_scored_are_refused(rloo, sequence, texts):
    with pytest.raises(DataError, match="text to score"):
        rloo.score(sequence / "drive_0.png", texts)


def test_a_path_is_not_several_scenes(rloo, sequence):
    with pytest.raises(DataError, match=r"several scenes are a list, got the path .*; give \.scenes\(path\)"):
        rloo.describe_batch(str(sequence))


def test_samples_depend_on_seed_and_temperature_alone(rloo, sequence):
    path = sequence / "drive_0.png"
    before = torch.get_rng_state()
    first = rloo.sample(path, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert rloo.sample(path, 4) == first
    assert [s.text for s in rloo.sample(path, 4, seed=1)] != [s.text for s in first]
    law = rloo._abilities.module.policy.sampling
    cold = rloo.sample(path, 4, temperature=0.01)
    assert {s.text for s in cold} == {rloo.describe(path)}
    assert rloo._abilities.module.policy.sampling == law == replace(law, temperature=1.0)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        rloo.sample(path, temperature=0.0)
    with pytest.raises(ValueError, match="num_completions must be >= 1"):
        rloo.sample(path, 0)


def test_samples_have_the_rewards_of_their_texts(rloo, sequence):
    path = sequence / "drive_0.png"
    drawn = rloo.sample(path, 3)
    scored = rloo.score(path, [s.text for s in drawn])
    assert [s.score.total for s in drawn] == pytest.approx([s.total for s in scored], abs=1e-6)
    assert all(s.log_probability < 0 for s in drawn)


def test_behind_descriptions_a_run_describes_by_its_start(two_stage, vlm_folder, sequence):
    run, start = lvad.load(two_stage), lvad.load(vlm_folder)
    path = sequence / "drive_1.png"
    assert run.abilities == ("describe", "decide", "sample")
    start._abilities.module.sampling = run._abilities.module.policy.sampling
    assert run.describe(path) == start.describe(path) == run.decide(path).description


def test_a_decision_has_the_entries_of_a_row_of_predict():
    names = set(lvad.Decision._fields)
    from answered import FORWARD, REASON, scene

    row = answer_row(
        scene("a", FORWARD, FORWARD, REASON, description="clear")._replace(
            action_probabilities=(0.5,) * 4, reason_probabilities=(0.5,) * 21
        )
    )
    assert names == set(row)


def test_a_batch_is_that_of_its_scenes(rloo, sequence, monkeypatch):
    files = [Path(p) for p in sorted(sequence.iterdir())]
    alone = [rloo.describe(path) for path in files]
    monkeypatch.setattr(rloo, "batch_size", 2)
    assert rloo.describe_batch(files) == alone
    assert rloo.describe_batch([]) == []


def test_examples_are_the_runs_own_scenes(rloo, lora_run, drawn_root):
    from lvad.data.lastframe import read_lastframe

    own = [scene for scene in read_lastframe(drawn_root, 2, None).scenes if scene.split == "val"]
    found = rloo.examples(2)
    assert len(found) == 2
    assert all(any(np.array_equal(np.stack([Image.open(p) for p in s.frames]), e) for s in own) for e in found)
