"""Stages: configurations without bounds and malicious checkpoints are refused before anything is built."""

from collections.abc import Callable
from pathlib import Path

import pytest
from test_fuzz_checkpoints import a_pickle, a_zip_bomb
from test_fuzz_folders import LAUGHS

from lvad.cli import main


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", [LAUGHS, "model: &a {x: *a}", "[" * 1000, "\xff"], ids=range(4))
def test_malicious_configurations(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_bytes(text.encode("latin-1"))
    for option in (["--config", "c.yaml"], ["--config=c.yaml"]):
        assert main(["fit", *option]) == 1
    assert capsys.readouterr().err.count("lvad: error: c.yaml") == 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("make", [a_pickle, a_zip_bomb])
def test_malicious_checkpoints(
    make: Callable[[Path, Path], None], command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x.ckpt", tmp_path / "executed")
    for name, message in (("x.ckpt", "x.ckpt: is no checkpoint"), ("http://localhost:9/x.ckpt", "is an address")):
        assert main([command, "--config", "configs/rloo.yaml", "--ckpt_path", name]) == 1
        assert message in capsys.readouterr().err
    assert not Path("executed").exists()
