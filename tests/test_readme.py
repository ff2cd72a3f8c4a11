"""What the README promises stands there."""

import itertools
import re
import shlex
from pathlib import Path

from lvad.assets import resolve_config
from lvad.cli import OTHER_COMMANDS, STAGE_COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line.split("#")[0])
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.replace("&&", "\n").splitlines()
    if line.strip().startswith("lvad ")
]


def test_commands_and_their_configurations_exist():
    assert len(COMMANDS) > 8
    for command in COMMANDS:
        assert command[1] in {*STAGE_COMMANDS, *OTHER_COMMANDS}
        for name, value in itertools.pairwise(command):
            if name == "--config" and value.startswith("configs/"):
                assert resolve_config(value).is_file()


def test_files_that_are_named_exist():
    for name in re.findall(r"\]\((?!http)([^)]+)\)|`((?:tests|configs|benchmarks|docs)/[\w./-]+)`", README):
        assert (ROOT / next(filter(None, name)).partition("#")[0]).exists(), name
