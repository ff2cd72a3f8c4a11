"""What docs/algorithms.md shows can be run, and what it names exists."""

import re
from pathlib import Path

import pytest

from lvad.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/algorithms.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.sub(r"\W+", "-", block)[-40:])
def test_every_override_is_understood(block, tmp_path, capsys):
    assert len(BLOCKS) >= 8
    (tmp_path / "mine.yaml").write_text(block)
    args = [
        "fit",
        "--config",
        str(ROOT / "configs/rloo.yaml"),
        "--config",
        str(tmp_path / "mine.yaml"),
        "--print_config",
    ]
    with pytest.raises(SystemExit) as done:
        main(args)
    printed = capsys.readouterr()
    assert done.value.code == 0, printed.err
    for value in re.findall(r"class_path: ([\w.]+)", block):
        assert value.rsplit(".", 1)[1] in printed.out


def test_what_is_named_exists():
    names = re.findall(r"`((?:tests|configs|benchmarks|lvad)/[\w./]+\.\w+)`", PAGE)
    assert len(names) > 10
    for name in names:
        assert (ROOT / name).is_file(), name
