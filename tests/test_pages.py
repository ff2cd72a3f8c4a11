"""Every page of the documentation: its commands are understood, its files exist, its blocks mean something."""

import ast
import json
import re
import shlex
import shutil
import subprocess

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from pages import PAGES, ROOT, blocks, lvad_commands, shell_lines, text_of

from lvad.cli import OTHER_COMMANDS, STAGE_COMMANDS, main
from lvad.taxonomy import load_taxonomy

COMMANDS = {shlex.join(command): command for page in PAGES for command in lvad_commands(page)}
"""Of all pages, each once."""
YAML = [block for page in PAGES for block in blocks(page, "yaml")]
LANGUAGES = {"bash", "csv", "json", "python", "text", "yaml"}
FILE = r"`((?:\.ci|benchmarks|configs|docs|examples|lvad|tests|tools)/[\w./-]+)`"


class Parsed(BaseException):
    """A command line was understood; no ``Exception``, so that nothing makes an error message of it."""


@pytest.fixture
def only_parsed(monkeypatch):
    """Commands end once their arguments are parsed."""
    real, depth = ArgumentParser.parse_args, []

    def parse_args(parser, *args, **kwargs):
        depth.append(parser)
        try:
            found = real(parser, *args, **kwargs)
        finally:
            depth.pop()
        if not depth:  # a subcommand's parser is called within its parent's
            raise Parsed
        return found

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_args)


@pytest.fixture(scope="module")
def with_runs(tmp_path_factory):
    """A folder with the files that the pages show, and a run where they name one: configuration and checkpoint."""
    folder = tmp_path_factory.mktemp("pages")
    named = {name for page in PAGES for name in re.findall(r"logs/[\w-]+(?:/[\w-]+)+", text_of(page))}
    for run in sorted(name.split("/checkpoints")[0].removesuffix("/config").removesuffix("/model") for name in named):
        (folder / run / "checkpoints").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "configs/rloo.yaml", folder / run / "config.yaml")
        for name in ("best", "last"):
            torch.save({"state_dict": {}, "global_step": 0}, folder / run / f"checkpoints/{name}.ckpt")
    for block in (block for page in PAGES for language in LANGUAGES for block in blocks(page, language) if block.file):
        (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.file).write_text(block.text)
    return folder


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_is_understood(command, with_runs, only_parsed, monkeypatch, capsys):
    monkeypatch.chdir(with_runs)
    flags = [word for word in command if word == "--safe"]
    command = [word for word in command if word not in flags]
    assert command[0] in {*STAGE_COMMANDS, *OTHER_COMMANDS}
    try:
        code = main([*flags, *command])
    except Parsed:
        return
    except SystemExit as ended:  # --print_config
        code = ended.code
    assert code == 0, capsys.readouterr().err


def test_a_command_that_is_not_understood_is_found(with_runs, only_parsed, monkeypatch, capsys):
    monkeypatch.chdir(with_runs)
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "configs/rloo.yaml", "--model.init_args.num_completion", "4"])
    assert ended.value.code == 2
    assert "num_completion" in capsys.readouterr().err


def test_there_are_commands_for_every_subcommand():
    assert {command[0] for command in COMMANDS.values()} >= {*STAGE_COMMANDS, *OTHER_COMMANDS} - {
        "embedded",
        "validate",
    }


@pytest.mark.parametrize("page", PAGES)
def test_scripts_exist_and_know_their_options(page):
    shown = {block.file for block in blocks(page, "python")}
    for line in shell_lines(page):
        words = shlex.split(line, comments=True)
        if words[:1] != ["python"] or words[1].startswith("-") or words[1] in shown:
            continue
        script = ROOT / words[1]
        assert script.is_file(), line
        for option in (word for word in words[2:] if word.startswith("--")):
            if "argparse" in script.read_text():
                assert f'"{option}"' in script.read_text(), line


@pytest.mark.parametrize("page", PAGES)
def test_files_and_commands_that_are_named_exist(page):
    text = text_of(page)
    for name in re.findall(FILE, text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`lvad (\w+)[^`]*`", text):
        assert name in {"COMMAND", *STAGE_COMMANDS, *OTHER_COMMANDS}, name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([\w-]+))?\)", text_of(page)):
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), name
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in {slug(heading) for heading in headings}, (name, anchor)


def slug(heading):
    """The anchor of a heading, the same on the site and in a repository's browser."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_their_language(page):
    opened = re.findall(r"^```(\w*)$", text_of(page), re.M)[::2]
    assert set(opened) <= LANGUAGES
    for block in blocks(page, "json"):
        lines = block.text.splitlines() if block.file.endswith("jsonl") else [block.text]
        assert all(json.loads(line) for line in lines)
    for block in blocks(page, "python"):
        ast.parse(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_shell_blocks_are_understood_by_bash(page):
    for block in blocks(page, "bash"):
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert not done.stderr, done.stderr


@pytest.mark.parametrize("block", YAML, ids=[f"{block.page}-{i}" for i, block in enumerate(YAML)])
def test_every_override_and_label_set_is_understood(block, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.yaml").write_text(block.text)
    monkeypatch.chdir(tmp_path)
    if "actions" in yaml.safe_load(block.text):
        assert load_taxonomy("mine.yaml").name
        return
    for other in blocks(block.page, "python"):  # classes of one's own that the block may name
        if other.file:
            (tmp_path / other.file).write_text(other.text)
    with pytest.raises(SystemExit) as done:
        main(["fit", "--config", str(ROOT / "configs/rloo.yaml"), "--config", "mine.yaml", "--print_config"])
    printed = capsys.readouterr()
    assert done.value.code == 0, printed.err
    for value in re.findall(r"class_path: ([\w.]+)", block.text):
        assert value.rsplit(".", 1)[1] in printed.out


def test_the_readme_is_short_and_names_all_families():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 150
    table = text_of("docs/families.md").split("<!-- table: families -->\n")[1].split("<!-- end")[0].splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    families = {name.strip() for row in rows[2:] for name in row[1].split(",")}
    header, _, *short = [line for line in text.split("\n| family")[1].split("\n\n")[0].splitlines()]
    assert {name.strip() for line in short for name in line.split("|")[1].split(",")} == families
    assert [cell.strip() for cell in header.strip("| ").split("|")] == rows[0][3:]
    assert all(set(line.split("|")[2:-1]) == {" yes "} for line in short)
