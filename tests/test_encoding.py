"""Runs in a locale that knows ASCII alone: nothing is lost, and nothing ends in an error."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LOCALES = {
    "C": {"LC_ALL": "C"},
    "C without Python's UTF-8 mode": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "a terminal of ASCII": {"PYTHONIOENCODING": "ascii"},
}


def run(*args, cwd, environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    command = [sys.executable, "-m", "lvad.cli", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env={**kept, **environment}, capture_output=True, timeout=300)


@pytest.mark.parametrize("environment", LOCALES.values(), ids=list(LOCALES))
def test_data_check_reports_on_names_beyond_ascii(tmp_path, environment):
    folder = tmp_path / "straße"
    folder.mkdir()
    for name in ("größe_1.png", "größe_2.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "größe_3.png").write_bytes(b"broken")
    done = run("data", "check", folder, cwd=tmp_path, environment=environment)
    said = done.stdout.decode()
    assert done.returncode == 1, done.stderr.decode()
    assert "_3.png: image cannot be decoded" in said
    assert "1 errors, 0 warnings" in said


@pytest.mark.slow
def test_a_configuration_beyond_ascii_is_read_and_printed(tmp_path):
    (tmp_path / "größe.yaml").write_text("data:\n  source:\n    root: straße\n", encoding="utf-8")
    configs = ["--config", ROOT / "configs/toy_sft.yaml", "--config", "größe.yaml"]
    done = run("fit", *configs, "--print_config", cwd=tmp_path, environment=LOCALES["C without Python's UTF-8 mode"])
    assert done.returncode == 0, done.stderr.decode()
    assert "root: straße" in done.stdout.decode()


def test_every_text_file_is_opened_with_an_encoding():
    lacking = []
    for path in (ROOT / "lvad").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node) and "encoding" not in {k.arg for k in node.keywords}:
                lacking.append(f"{path}:{node.lineno}")
    assert lacking == []


def _opens_text(call: ast.Call) -> bool:
    """Whether a call is one of Path.read_text, Path.write_text, Path.open or open, in text mode."""
    if isinstance(call.func, ast.Name):
        return call.func.id == "open"
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in ("read_text", "write_text", "open"):
        return False
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    is_module = isinstance(call.func.value, ast.Name) and call.func.value.id in (
        "av",
        "fsspec",
        "Image",
        "os",
        "tarfile",
    )
    return not is_module and not any("b" in mode for mode in modes)
