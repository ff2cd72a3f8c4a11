"""Model folders and configurations: built whole, or refused in one line; no code of theirs is run."""

import functools
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import break_bytes, break_json, cases, one_line, refused

from lvad.assets import CHECKPOINTS, CONFIGS, resolve_config, resolve_model
from lvad.cli import main
from lvad.commands.audit import build_reward
from lvad.commands.yaml_files import read_yaml
from lvad.errors import DataError
from lvad.policy.hf import HFPolicy
from lvad.rewards.clip import CLIP

SHIPPED = {"policy": CHECKPOINTS / "vlm", "CLIP": CHECKPOINTS / "clip"}
BUILD: dict[str, Callable[[str], Any]] = {"policy": functools.partial(HFPolicy, lora=None), "CLIP": CLIP}
CONFIG_OF = {"policy": "config.json", "CLIP": "open_clip_config.json"}


class Executes:
    """Pickled, a call of ``os.mkdir``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def copy(kind: str, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in SHIPPED[kind].iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def change(file: Path, data: bytes) -> None:
    file.unlink()
    file.write_bytes(data)


def break_one(folder: Path, rng: random.Random) -> None:
    """Configurations and tokenizers anywhere, weights in their header."""
    file = rng.choice(sorted(folder.iterdir()))
    whole = file.read_bytes()
    if file.suffix == ".safetensors":
        end = 8 + int.from_bytes(whole[:8], "little")
        header = break_json(json.loads(whole[8:end]), rng)
        is_json = rng.randrange(2)
        start = len(header).to_bytes(8, "little") + header if is_json else break_bytes(whole[:end], rng)
        change(file, start + whole[end:])
    elif file.suffix == ".json" and rng.randrange(3):
        change(file, break_json(json.loads(whole), rng))
    else:
        change(file, break_bytes(whole, rng))


def built_or_refused(kind: str, folder: Path, rng: random.Random) -> None:
    break_one(copy(kind, folder / "model"), rng)
    with refused(ValueError):
        model = BUILD[kind](str(folder / "model"))
        assert all(parameter.device.type == "cpu" for parameter in model.parameters())


@cases("policy folders")
def test_policy_folders(tmp_path: Path, rng: random.Random) -> None:
    built_or_refused("policy", tmp_path, rng)


@cases("CLIP folders")
def test_clip_folders(tmp_path: Path, rng: random.Random) -> None:
    built_or_refused("CLIP", tmp_path, rng)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SHIPPED)
def test_weights_that_are_a_pickle_are_not_executed(kind: str, tmp_path: Path) -> None:
    folder = copy(kind, tmp_path / "model")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (tmp_path / "room").write_bytes(b"")
    for name in ("pytorch_model.bin", "open_clip_pytorch_model.bin"):
        torch.save({"x": Executes(tmp_path / "executed"), "room": torch.zeros(10**6)}, folder / name)
    with pytest.raises(ValueError, match=r"cannot be loaded|safetensors") as refusal:
        BUILD[kind](str(folder))
    one_line(refusal.value, folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SHIPPED)
def test_a_model_without_its_weights_is_refused(kind: str, tmp_path: Path) -> None:
    """One of random weights would judge and drive."""
    folder = copy(kind, tmp_path / "model")
    (weights,) = folder.glob("*.safetensors")
    whole = weights.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    name = next(name for name in header if name != "__metadata__")
    header[f"{name}.renamed"] = header.pop(name)
    new = json.dumps(header).encode()
    change(weights, len(new).to_bytes(8, "little") + new + whole[end:])
    with pytest.raises(ValueError, match=r"lacks 1 weights|Missing key"):
        BUILD[kind](str(folder))
    weights.unlink()
    with pytest.raises(ValueError, match=str(folder)):
        BUILD[kind](str(folder))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SHIPPED)
def test_code_in_a_folder_is_not_run(kind: str, tmp_path: Path) -> None:
    folder = copy(kind, tmp_path / "model")
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\nclass Evil: ...\n")
    parts = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
    for file in folder.glob("*config.json"):
        content = json.loads(file.read_text())
        change(file, json.dumps({**content, "auto_map": {part: "evil.Evil" for part in parts}}).encode())
    with refused(ValueError, folder):
        BUILD[kind](str(folder))
    assert not (tmp_path / "executed").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("kind", "part", "name"),
    [
        ("policy", "text_config", "num_hidden_layers"),
        ("policy", "text_config", "hidden_size"),
        ("policy", "text_config", "vocab_size"),
        ("policy", "vision_config", "intermediate_size"),
        ("CLIP", "text_cfg", "layers"),
        ("CLIP", "text_cfg", "vocab_size"),
        ("CLIP", "vision_cfg", "width"),
        ("CLIP", "vision_cfg", "image_size"),
    ],
)
def test_a_model_that_says_it_is_huge_is_refused_before_there_is_room_for_it(
    kind: str, part: str, name: str, tmp_path: Path
) -> None:
    file = copy(kind, tmp_path / "model") / CONFIG_OF[kind]
    content = json.loads(file.read_text())
    sizes = (content if kind == "policy" else content["model_cfg"])[part]
    assert name in sizes or kind == "policy"
    sizes[name] = 10**6 * 16
    change(file, json.dumps(content).encode())
    with pytest.raises(ValueError, match=r"says") as refusal:
        BUILD[kind](str(file.parent))
    one_line(refusal.value, file.parent)


@pytest.mark.parametrize(
    "name", ["embedded/../configs", "embedded/", "embedded/..", "x/" * 200, "/a\0b", "~nobody-x/y"]
)
def test_no_way_out_of_the_embedded_models(name: str) -> None:
    with pytest.raises(FileNotFoundError):
        resolve_model(name)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "../" * 9, "loop"])
def test_a_configuration_that_cannot_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(FileNotFoundError):
        resolve_config(name)


@cases("configurations")
def test_configurations(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(break_bytes((CONFIGS / "rloo.yaml").read_bytes(), rng))
    with refused(DataError, path):
        read_yaml(path)


@cases("rewards in configurations")
def test_rewards_in_configurations(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "config.yaml"
    reward = {"class_path": "lvad.rewards.CLIPCosine", "init_args": {"model": "embedded/clip", "cache_scenes": 1}}
    path.write_bytes(break_json({"model": {"init_args": {"reward": reward}}}, rng))
    with refused((DataError, FileNotFoundError)):
        build_reward(str(path))


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "model: &a {x: *a}",
        "&a [*a]",
        "[" * 1000,
        "a: " * 100_000,
        "x" * 2_000_000,
        "!!python/object/apply:os.mkdir [executed]",
        "!!bool x",
        "!!timestamp x",
        "!!int ''",
        "a: 2001-99-99",
        "a: \0",
        "\ufeff\ufeff",
    ],
    ids=range(13),
)
def test_malicious_yaml(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    if "\ufeff" not in text:
        with pytest.raises(DataError) as refusal:
            read_yaml(path)
        one_line(refusal.value, path)
    assert main(["pipeline", "--config", str(path)]) == 1
    assert main(["audit", "--reward", str(path)]) == 1
    assert capsys.readouterr().err.count("lvad: error: ") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["pipeline.yaml"]
