"""Checkpoints and caches of tensors: read within bounds, and never executed."""

import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import LEAVES, break_bytes, cases, one_line, refused
from safetensors.torch import save

from lvad.cli import main
from lvad.commands.checkpoint_io import check_checkpoint, read_checkpoint
from lvad.commands.run_folder import find_interrupted_run
from lvad.commands.trained_run import load_run
from lvad.errors import DataError
from lvad.policy.visual_token_cache import VisualTokenCache

WHOLE = {
    "state_dict": {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.zeros(2, dtype=torch.bfloat16)},
    "global_step": 3,
    "epoch": 0,
    "pytorch-lightning_version": "2.6.6",
    "callbacks": {"RunRecorder": {"curve": [(1, 0.5)]}},
}
KEY = "ab" * 32


class Executes:
    """Pickled, a call of ``os.mkdir``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def broken(rng: random.Random) -> bytes:
    """Bytes of a checkpoint broken, the pickle inside it broken in a whole archive, or values of other kinds."""
    match rng.randrange(3):
        case 0:
            return break_bytes(saved(WHOLE), rng)
        case 1:
            content = WHOLE | {rng.choice(list(WHOLE)): rng.choice(LEAVES)}
            if rng.randrange(2):
                content["state_dict"] = {rng.choice(("a.weight", 7, None)): rng.choice(LEAVES)}
            return saved(content)
        case _:
            file = io.BytesIO()
            with zipfile.ZipFile(io.BytesIO(saved(WHOLE))) as old, zipfile.ZipFile(file, "w") as new:
                for part in old.infolist():
                    data = old.read(part)
                    new.writestr(part, break_bytes(data, rng) if part.filename.endswith("data.pkl") else data)
            return file.getvalue()


@cases("checkpoints")
def test_checkpoints(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "version_0/checkpoints/last.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(broken(rng))
    with refused(DataError, path, "do without"):
        content = read_checkpoint(path, "do without")
        assert all(value.sum().isfinite() in (True, False) for value in content["state_dict"].values())
    with refused(DataError, path, "delete it"):
        found = find_interrupted_run(tmp_path)
        assert found
        assert isinstance(found.step, int)


def a_legacy_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(saved(WHOLE | {"x": Executes(mark)}, _use_new_zipfile_serialization=False))


def a_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(saved(WHOLE | {"x": Executes(mark)}))


def a_plain_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Executes(mark)))


def a_zip_bomb(path: Path, mark: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        with zipfile.ZipFile(io.BytesIO(saved(WHOLE))) as old:
            for part in old.namelist():
                new.writestr(part, old.read(part))
        with new.open("archive/data/9", "w", force_zip64=True) as file:
            for _ in range(64):
                file.write(bytes(2**20))


def a_tensor_without_end(path: Path, mark: Path) -> None:
    """Its storage says that it holds 2^60 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({**WHOLE, "state_dict": {"a": torch.zeros(255)}}))) as old:
        with zipfile.ZipFile(file, "w") as new:
            for part in old.infolist():
                data = old.read(part)
                if part.filename.endswith("data.pkl"):
                    assert b"K\xff" in data
                    data = data.replace(b"K\xff", b"\x8a\x08" + (2**58).to_bytes(8, "little"))
                new.writestr(part, data)
    path.write_bytes(file.getvalue())


def a_name_without_end(path: Path, mark: Path) -> None:
    """A class is named by 600,000 characters."""
    with zipfile.ZipFile(io.BytesIO(saved(WHOLE))) as old, zipfile.ZipFile(path, "w") as new:
        for part in old.infolist():
            data = old.read(part)
            if part.filename.endswith("data.pkl"):
                data = data.replace(b"ccollections\n", b"c" + b'{"a":' * 120_000 + b"\n")
                assert len(data) > 600_000
            new.writestr(part, data)


def a_pipe(path: Path, mark: Path) -> None:
    os.mkfifo(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "make",
    [a_legacy_pickle, a_pickle, a_plain_pickle, a_zip_bomb, a_tensor_without_end, a_name_without_end, a_pipe],
)
def test_a_malicious_checkpoint_is_refused_and_not_executed(make: Any, tmp_path: Path, capsys, monkeypatch) -> None:
    path, mark = tmp_path / "logs/rloo/version_0/checkpoints/last.ckpt", tmp_path / "executed"
    path.parent.mkdir(parents=True)
    make(path, mark)
    with pytest.raises(DataError) as refusal:
        read_checkpoint(path, "do without")
    one_line(refusal.value, path, "do without")
    with pytest.raises(DataError, match="give another one"):
        check_checkpoint(str(path))
    (path.parents[1] / "config.yaml").write_text("model: {}\n")
    with pytest.raises(DataError, match="is no checkpoint that can be read"):
        load_run(path.parents[1], "last")
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(path.parents[1]), "out", "--checkpoint", "last"]) == 1
    assert main(["fit", "--config", "configs/rloo.yaml", "--ckpt_path", "last"]) == 1
    assert capsys.readouterr().err.count("is no checkpoint that can be read") == 2
    assert not mark.exists()
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["http://localhost:9/x.ckpt", "https://localhost:9/x.ckpt", "s3://b/x.ckpt"])
def test_a_checkpoint_is_not_loaded_from_an_address(name: str) -> None:
    """Lightning loads what it downloads as a pickle."""
    with pytest.raises(DataError, match="is an address"):
        check_checkpoint(name)


def test_what_is_no_file_is_left_to_lightning(tmp_path: Path) -> None:
    for name in (str(tmp_path), "best", str(tmp_path / "nothing.ckpt")):
        check_checkpoint(name)


@cases("vision cache")
def test_kept_visual_tokens(tmp_path: Path, rng: random.Random) -> None:
    file = tmp_path / KEY[:2] / f"{KEY}.safetensors"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(break_bytes(save({"features": torch.ones(2, 3)}), rng))
    with refused(ValueError, file):
        features = VisualTokenCache(folder=str(tmp_path)).get(KEY)
        assert features is not None
        assert features.ndim == 2
        assert features.is_floating_point()


@pytest.mark.parametrize("features", [torch.ones(6), torch.ones(2, 3, dtype=torch.int64), torch.ones(1, 2, 3)])
def test_what_is_no_row_of_visual_tokens(features: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / KEY[:2]).mkdir()
    (tmp_path / KEY[:2] / f"{KEY}.safetensors").write_bytes(save({"features": features}))
    with pytest.raises(ValueError, match=f"{KEY}.safetensors holds no visual tokens"):
        VisualTokenCache(folder=str(tmp_path)).get(KEY)


def test_kept_visual_tokens_without_end(tmp_path: Path) -> None:
    """A header that says that it is 2^60 bytes long, and one of a tensor that is."""
    header = b'{"features":{"dtype":"F32","shape":[%d,1],"data_offsets":[0,%d]}}' % (2**58, 2**60)
    for content in ((2**60).to_bytes(8, "little") + b"{}", len(header).to_bytes(8, "little") + header):
        (tmp_path / KEY[:2]).mkdir(exist_ok=True)
        (tmp_path / KEY[:2] / f"{KEY}.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="holds no visual tokens"):
            VisualTokenCache(folder=str(tmp_path)).get(KEY)
