"""``lvad pipeline`` for real: every stage on a few drawn scenes, the comparison, and a second call."""

import json
import shlex
import shutil

import pytest
import yaml

from lvad.cli import main
from lvad.commands.pipeline import run_process

SMALL = {
    "data.source.root": "drawn",
    "data.split.num_scenes": {"train": 16, "val": 8, "test": 8},
    "trainer.max_epochs": 1,
    "trainer.num_sanity_val_steps": 0,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": False,
}


REAL = [
    {
        "name": "reward",
        "config": "clip_reward.yaml",
        "test": False,
        "overrides": {**SMALL, "data.source.drawing_seed": 0},
    },
    {
        "name": "rloo",
        "config": "rloo.yaml",
        "test": False,
        "overrides": {
            **SMALL,
            "model.init_args.reward.init_args.model": "{reward}",
            "model.init_args.num_completions": 2,
            "model.init_args.audit": "warn",
        },
    },
    {
        "name": "two_stage",
        "config": "two_stage.yaml",
        "overrides": {
            **SMALL,
            "model.init_args.policy.init_args.model": "{rloo}",
            "model.init_args.judge.init_args.model": "{reward}",
        },
    },
    {"name": "action_sft", "config": "action_sft.yaml", "overrides": {**SMALL, "model.init_args.judge": None}},
]


def frames_of(tmp_path):
    """Two of the pictures that the stages were trained on, in a folder of their own."""
    pictures = sorted(tmp_path.glob("drawn/**/*.png"))[:2] or sorted(tmp_path.glob("drawn/**/*.jpg"))[:2]
    for picture in pictures:
        (tmp_path / "frames").mkdir(exist_ok=True)
        shutil.copy(picture, tmp_path / "frames")
    return "frames"


@pytest.mark.slow
def test_the_whole_method_on_drawn_scenes(tmp_path, monkeypatch, capfd):
    """One stage in a process of its own as always, the others in this one, which is quicker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "lvad.commands.pipeline.run_process",
        lambda args, fds: run_process(args, fds) if "action_sft.yaml" in args else main(args[3:]),
    )
    content = {"stages": REAL, "compare": {"pipeline": "two_stage", "sft baseline": "action_sft"}, "seed": 3}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["pipeline", "--config", "p.yaml", "--name", "tiny"]) == 0
    folder = tmp_path / "logs/pipeline/tiny"
    said = capfd.readouterr().out
    assert "Labels are equal over all stages: pipeline 24, sft baseline 24." in said
    for name in ("reward", "rloo", "two_stage", "action_sft"):
        assert (folder / name / "checkpoints/last.ckpt").is_file()
        assert "seed_everything: 3" in (folder / name / "config.yaml").read_text()
    uses = json.loads((folder / "two_stage/ledger.json").read_text())
    assert {use.split()[0] for use in uses} == {"CLIPReward", "RLOOPolicy", "ActionSFT"}
    assert json.loads((folder / "comparison.json").read_text())["num_scenes"] == 8

    closing = next(line for line in said.splitlines() if line.startswith("next: lvad predict PATH "))
    assert main([frames_of(tmp_path) if arg == "PATH" else arg for arg in shlex.split(closing)[2:]]) == 0
    row = json.loads((tmp_path / "predictions/predictions.jsonl").read_text().splitlines()[0])
    assert {"id", "description", "answer", "actions", "action_probabilities", "reasons", "reason_probabilities"} <= set(
        row
    )
    assert (tmp_path / "predictions" / row["picture"]).is_file()
    capfd.readouterr()

    # Killed after its last checkpoint, in the middle of its export.
    record = json.loads((folder / "action_sft/stage.json").read_text())
    (folder / "action_sft/stage.json").write_text(json.dumps(record | {"finished": None, "test_s": None}))
    assert main(["pipeline", "--config", "p.yaml", "--name", "tiny"]) == 0
    said = capfd.readouterr().out
    assert said.count("fit skipped") == 3
    assert "fit goes on from logs/pipeline/tiny/action_sft/checkpoints/last.ckpt" in said
