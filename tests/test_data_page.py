"""The small sets that docs/data.md shows are read as it says."""

import json
import re
import shlex
from pathlib import Path

import pytest
from layouts import picture, write_video

from lvad.cli import main
from lvad.data.jsonl import KEYS

PAGE = (Path(__file__).resolve().parents[1] / "docs/data.md").read_text()
SECTIONS = {part.splitlines()[0]: part for part in PAGE.split("\n## ")[1:]}
CHECKED = [name for name, part in SECTIONS.items() if "lvad data check" in part]


def write(part: str) -> None:
    """The files of a section in the current folder, and the pictures and videos that it names."""
    shown = re.findall(r"`([\w/-]+\.(?:jpg|mp4|mov))`", part)
    for name, text in re.findall(r"`([\w/-]+\.(?:jsonl?|yaml|csv|txt))`:\n\n```\w+\n(.*?)```", part, re.S):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
        if name.endswith("l"):
            shown += [str(Path(name).parent / file) for file in re.findall(r'"([\w/]+\.(?:jpg|mp4))"', text)]
    for name in shown:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        picture(Path(name)) if name.endswith("jpg") else write_video(Path(name), 20, fps=5)


@pytest.mark.parametrize("name", CHECKED)
def test_every_layout_is_read(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    part = SECTIONS[name]
    write(part)
    (command,) = re.findall(r"```bash\n(lvad data check .*)\n```", part)
    assert main(shlex.split(command)[1:]) == 0
    said = capsys.readouterr().out
    if shown := re.findall(r"```text\n(.*?)```", part, re.S):
        assert said == shown[0]
    else:
        found = json.loads(said)
        assert found["format"] == name.rpartition("`")[0].rpartition("`")[2]
        assert (found["errors"], found["images"].split()[0] != "0") == ([], True)


def test_every_layout_and_key_is_on_the_page():
    assert len(CHECKED) == 5
    assert all(f"`{key}`" in SECTIONS["Your own scenes: `jsonl`"] for key in KEYS)


def test_the_conversion_is_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(SECTIONS["BDD-OIA: `lastframe`"])
    (command,) = re.findall(r"```bash\n(lvad data convert .*)\n```", SECTIONS["Convert a data set"])
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out == "1 scenes: mine/scenes.jsonl\n"


def test_bdd_x_is_converted_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    part = SECTIONS["BDD-X"]
    write(part)
    (command,) = re.findall(r"```bash\n(lvad data convert .*)\n```", part)
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out in re.findall(r"```text\n(.*?)```", part, re.S)
    assert Path("bddx/scenes.jsonl").read_text() in re.findall(r"```json\n(.*?)```", part, re.S)
