"""The commands of README.md and of the quick start run as printed, in their order, in an empty folder."""

import shlex

import pytest
import yaml
from pages import shell_lines
from PIL import Image

from lvad.assets import resolve_config
from lvad.cli import main

PAGES = ("README.md", "docs/quick_start.md")
LEFT_OUT = {
    "pip": "installs into the environment that runs the tests",
    "pytest": "would run the tests within a test",
    "tensorboard": "is a server of another project",
    "lvad demo logs/rloo/version_0": "serves until it is stopped; tests/demo runs it",
    "lvad fit --config configs/bddoia/rloo.yaml --config configs/models/qwen3-vl-2b.yaml": "needs BDD-OIA, a hub model",
    "lvad fit --config configs/bddoia/rloo.yaml --config configs/strategy/ddp.yaml": "needs BDD-OIA and several GPUs",
    "lvad fit --config configs/bddoia/clip_reward.yaml": "needs BDD-OIA and a hub model",
    "lvad fit --config configs/bddoia/rloo.yaml": "needs BDD-OIA and a hub model",
    "lvad fit --config configs/bddoia/two_stage.yaml": "needs BDD-OIA and a hub model",
}
"""Commands that are not run, with the reason; one word stands for all commands of that program."""
TINY = {
    "--trainer.max_steps": "2",
    "--trainer.check_val_every_n_epoch": "1",
    "--trainer.accelerator": "cpu",
    "--plan.preflight": "false",
}
FEW_SCENES = "{train: 16, val: 8, test: 64}"
"""Scenes that the first fit draws; 64 are what an audit needs to be sure."""
OF_A_STAGE = {
    "data.source.format": "lastframe",  # the scenes that are drawn already
    "data.split.num_scenes": {"train": None, "val": 8, "test": 8},
    "data.split.budget": 8,
    "trainer.max_steps": 2,
    "plan.preflight": False,
    "trainer.accelerator": "cpu",
}


def left_out(words):
    return shlex.join(words) in LEFT_OUT or words[0] in LEFT_OUT


def tiny_pipeline():
    """The shipped pipeline with few scenes and steps in each stage."""
    content = yaml.safe_load(resolve_config("configs/pipeline.yaml").read_text())
    for stage in content["stages"]:
        own = OF_A_STAGE | ({"data.split.budget": 0} if stage["config"].endswith("rloo.yaml") else {})
        stage["overrides"] = own | stage.get("overrides", {})
    return yaml.safe_dump(content, sort_keys=False)


def overrides(words):
    """What is appended to a command so that it ends in seconds."""
    if words[1] == "pipeline":
        return ["--config", "tiny_pipeline.yaml"]
    if words[1] == "audit":
        return ["--num_scenes", "64"]
    is_main_job = "configs/rloo.yaml" in words
    few_scenes = [] if "frames" in words else ["--data.split.num_scenes", FEW_SCENES]
    if words[1] == "fit":
        few_completions = ["--model.init_args.num_completions", "2"] if is_main_job else []
        return [*few_scenes, *few_completions, *(word for pair in TINY.items() for word in pair)]
    return few_scenes if words[1] == "test" and is_main_job else []


def run(words):
    try:
        return main([*words[1:], *overrides(words)])
    except SystemExit as ended:  # --print_config
        return ended.code


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_of_the_first_pages_run_in_their_order(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    # What the reader brings: a picture, frames of a drive.
    Image.new("RGB", (160, 120), "grey").save("street.jpg")
    (tmp_path / "my_frames").mkdir()
    for number in range(16):
        Image.new("RGB", (160, 120), (10 * number, 80, 80)).save(f"my_frames/{number}.jpg")
    (tmp_path / "tiny_pipeline.yaml").write_text(tiny_pipeline())
    monkeypatch.setattr("lvad.commands.pipeline.run_process", lambda command, fds: main(command[3:]))
    done: set[str] = set()
    for line in (line for page in PAGES for line in shell_lines(page)):
        words = shlex.split(line, comments=True)
        if left_out(words) or (line := shlex.join(words)) in done:  # both pages have the long ones
            continue
        done.add(line)
        code = run(words)
        said = capfd.readouterr()
        assert code == 0, f"{shlex.join(words)}\n{said.out[-2000:]}\n{said.err[-2000:]}"


def test_no_command_is_left_out_that_stands_on_no_page():
    lines = [shlex.split(line, comments=True) for page in PAGES for line in shell_lines(page)]
    names = {shlex.join(words) for words in lines} | {words[0] for words in lines}
    assert names >= LEFT_OUT.keys()
    assert sum(not left_out(words) for words in lines) > 20
