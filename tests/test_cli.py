"""The command line as a new user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image

from lvad.assets import resolve_config, resolve_model
from lvad.cli import main

ROOT = Path(__file__).resolve().parents[1]
# A pipeline or a study lists stages; a strategy is put on top of one.
STAGE_CONFIGS = {
    *(ROOT / "configs").glob("*.yaml"),
    *(ROOT / "configs/bddoia").glob("*.yaml"),
    *(ROOT / "configs/bddx").glob("*.yaml"),
    *(ROOT / "configs/study").glob("*.yaml"),
    *(ROOT / "configs/study/bddoia").glob("*.yaml"),
} - {
    ROOT / "configs/pipeline.yaml",
    ROOT / "configs/pipeline_tuned_reward.yaml",
    ROOT / "configs/study/label_efficiency.yaml",
    ROOT / "configs/study/bddoia.yaml",
}
SMALL = [
    "--data.source.root", "drawn", "--data.split.num_scenes", "{train: 16, val: 8, test: 8}",
    "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu",
]  # fmt: skip


def run(*args, cwd, check=True):
    """Run lvad in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "lvad.cli", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=500
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_help_imports_nothing_heavy(capsys):
    code = "import sys; from lvad.cli import main; main(['--help']); main(['--version'])\n"
    code += "assert not {'torch', 'lightning', 'transformers', 'jsonargparse'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lvad fit --config configs/rloo.yaml" in done.stdout


def test_an_unknown_command_is_named_with_the_nearest_one(capsys):
    assert main(["fti"]) == 2
    assert "unknown command 'fti'; did you mean 'fit'?" in capsys.readouterr().err


@pytest.mark.parametrize("config", sorted(p.relative_to(ROOT) for p in STAGE_CONFIGS), ids=str)
def test_every_shipped_config_parses(config, capsys):
    """--print_config parses the whole file against the constructors and stops before building anything."""
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(ROOT / config), "--print_config"])
    assert stopped.value.code == 0
    assert "class_path: lvad.modules." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.init_args.num_completion", "4"], "num_completion"),
        (["--data.batchsize", "4"], "batchsize"),
        (["--model.init_args.policy", "torch.nn.Linear"], "Linear"),
        (["--model.init_args.kl.beta", "much"], "beta"),
    ],
)
def test_a_mistake_is_refused_by_name(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(ROOT / "configs/rloo.yaml"), *args])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["test"]) == 1
    assert "lvad: error: no finished run" in capsys.readouterr().err
    assert main(["fit", "--config", "configs/nothing.yaml"]) == 1
    assert "no configuration at 'configs/nothing.yaml'" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="embedded/vlm"):
        resolve_model("embedded/nothing")


def test_shipped_configs_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_config("configs/rloo.yaml") == ROOT / "configs/rloo.yaml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/rloo.yaml").write_text("mine")
    assert resolve_config("configs/rloo.yaml").read_text() == "mine"


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A small main job on the embedded models."""
    cwd = tmp_path_factory.mktemp("work")
    done = run("fit", "--config", "configs/rloo.yaml", *SMALL, cwd=cwd)
    return cwd, done


@pytest.mark.slow
def test_the_main_job_ends_with_its_run_folder(finished_run):
    cwd, done = finished_run
    folder = cwd / "logs/rloo/version_0"
    last = done.stdout.strip().splitlines()[-1]
    assert "logs/rloo/version_0" in last
    assert "lvad test" in last
    metrics = json.loads((folder / "metrics.json").read_text())
    kinds = {"val/reward", "val/fact_precision", "val/fact_recall"}
    assert kinds | {f"{kind}_start" for kind in kinds} | {"time/fit_s", "memory/peak_mib"} <= set(metrics)
    assert (folder / "config.yaml").is_file()
    assert (folder / "reward_curve.png").is_file()
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} >= {0, 2}
    assert len(rows[0]["completions"]) == 8


@pytest.mark.slow
def test_the_result_opens_in_plain_transformers(finished_run):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = finished_run[0] / "logs/rloo/version_0/model"
    assert AutoModelForImageTextToText.from_pretrained(folder).config.model_type == "smolvlm"
    assert AutoProcessor.from_pretrained(folder).chat_template


@pytest.mark.slow
def test_test_without_arguments_evaluates_the_newest_run(finished_run):
    cwd, _ = finished_run
    done = run("test", cwd=cwd)
    assert "version_0" in done.stdout
    assert "best.ckpt" in done.stdout
    metrics = json.loads((cwd / "logs/rloo/version_0/metrics.json").read_text())
    assert {"test/reward", "test/fact_precision", "val/reward_start"} <= set(metrics)
    assert [p.name for p in (cwd / "logs/rloo").iterdir()] == ["version_0"]


def write_video(path, pictures, fps=1):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width = stream.height = 128
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(Image.open(picture))))
        container.mux(stream.encode())


@pytest.mark.slow
@pytest.mark.parametrize(("source", "num_scenes"), [("street.png", 1), ("frames", 4), ("drive.mp4", 4)])
def test_predict_describes_a_picture_a_folder_and_a_video(
    finished_run, tmp_path, monkeypatch, source, num_scenes, capsys
):
    cwd, _ = finished_run
    pictures = sorted((cwd / "drawn/data").glob("*.jpg"))[:4]
    Image.open(pictures[0]).save(tmp_path / "street.png")
    (tmp_path / "frames").mkdir()
    for picture in pictures:
        Image.open(picture).save(tmp_path / "frames" / picture.name)
    write_video(tmp_path / "drive.mp4", pictures)

    monkeypatch.chdir(cwd)
    assert main(["predict", str(tmp_path / source), "--predictions.folder", str(tmp_path / "out")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert len(rows) == num_scenes  # one that ends at each frame
    said = capsys.readouterr().out
    assert all(f"{row['id']}: {row['description']}" in said for row in rows)
    assert all(len(row["description"].split()) > 2 for row in rows)
    assert len(list((tmp_path / "out/pictures").iterdir())) == num_scenes


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_described(
    finished_run, tmp_path, monkeypatch, capsys
):
    """With the configuration beside the checkpoint, from anywhere, and what was predicted before is kept."""
    cwd, _ = finished_run
    (tmp_path / "frames").mkdir()
    for i, picture in enumerate(sorted((cwd / "drawn/data").glob("*.jpg"))[:4]):
        content = picture.read_bytes()
        (tmp_path / f"frames/f{i}.jpg").write_bytes(content[: len(content) // 2] if i == 1 else content)
    monkeypatch.chdir(tmp_path)
    checkpoint = cwd / "logs/rloo/version_0/checkpoints/best.ckpt"
    for folder in ("seen", "seen_1"):
        assert main(["predict", "--ckpt_path", str(checkpoint), "--out", "seen", "frames"]) == 1
        rows = [json.loads(line) for line in Path(folder, "predictions.jsonl").read_text().splitlines()]
        assert [(row["id"], len(row["frames"])) for row in rows] == [("f0", 1), ("f2", 1), ("f3", 2)]
        said = capsys.readouterr()
        assert "left out: frames/f1.jpg: image cannot be decoded" in said.err
        assert "1 pictures, videos or rows cannot be used, named above; the predictions of the 3 other" in said.err
        assert f"scenes are in {folder}" in said.err
        assert f"f2: {rows[1]['description']}" in said.out
    before = sorted(Path("seen").rglob("*"))
    (tmp_path / "frames/f0.jpg").write_bytes(b"")
    assert main(["predict", "frames/f0.jpg", "--ckpt_path", str(checkpoint), "--out", "none"]) == 1
    assert "lvad: error: frames/f0.jpg: image cannot be decoded" in capsys.readouterr().err
    assert not Path("none").exists()
    assert sorted(Path("seen").rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", ["test", "validate", "predict", "fit"])
def test_the_checkpoint_of_other_adapters_is_refused_by_name(finished_run, monkeypatch, capsys, command):
    cwd, _ = finished_run
    monkeypatch.chdir(cwd)
    folder = "logs/rloo/version_0"
    given = ["--config", f"{folder}/config.yaml", "--ckpt_path", f"{folder}/checkpoints/best.ckpt"]
    more = ["--trainer.logger", "false", "--trainer.max_epochs", "2"] if command == "fit" else []
    assert main([command, *given, *more, "--model.policy.lora.rank", "3"]) == 1
    said = capsys.readouterr().err
    assert f"{folder}/checkpoints/best.ckpt: holds" in said
    assert "weights of another shape: policy." in said


@pytest.mark.slow
def test_a_run_can_be_continued(finished_run):
    """From last.ckpt for another epoch; the start's scores are those of the first start."""
    cwd, _ = finished_run
    before = json.loads((cwd / "logs/rloo/version_0/metrics.json").read_text())
    last = cwd / "logs/rloo/version_0/checkpoints/last.ckpt"
    run("fit", "--config", "configs/rloo.yaml", *SMALL, "--trainer.max_epochs", "2", "--ckpt_path", last, cwd=cwd)
    folder = cwd / "logs/rloo/version_1"
    after = json.loads((folder / "metrics.json").read_text())
    assert after["val/reward_start"] == before["val/reward_start"]
    assert {json.loads(line)["step"] for line in (folder / "samples.jsonl").read_text().splitlines()} == {3, 4}


@pytest.mark.slow
def test_the_main_job_runs_on_real_frames(shared_data, tmp_path):
    run(
        "fit", "--config", "configs/rloo.yaml", *SMALL[4:], "--data.source.format", "frames",
        "--data.source.root", shared_data / "sequences", "--trainer.limit_val_batches", "1", cwd=tmp_path,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "logs/rloo/version_0/metrics.json").read_text())
    assert {"val/reward", "val/reward_start"} <= set(metrics)
    assert "val/fact_precision" not in metrics
