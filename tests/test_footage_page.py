"""The plan of docs/footage.md is what its script computes, and its commands are understood."""

import itertools
import re
import shlex
from pathlib import Path

import footage_plan as plan
import pytest

from lvad.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/footage.md").read_text()
COMMANDS = re.findall(r"^lvad .*", "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)), re.M)


@pytest.mark.parametrize("table", plan.TABLES, ids=lambda table: table.__name__)
def test_every_table_is_the_script_s(table):
    assert table() in PAGE


def test_the_shapes_are_those_of_the_published_models():
    """Weights in products: the text model's 134,588,736 less its embeddings and norms; the tower's 12 layers."""
    norms = 576 * 61
    assert plan.TEXT == 134_588_736 - plan.HEAD - norms
    assert plan.TOWER == 12 * 7_077_888


def test_the_cost_of_a_tile_by_hand():
    """2 x 85.5 M weights x 1,024 patches, 2 x 2 x 1,024^2 x 768 per layer of attention, the connector on 64 tokens."""
    assert plan.TILE == pytest.approx(175.16e9 + 38.65e9 + 0.91e9, rel=1e-4)


def test_more_completions_at_once_are_faster_until_the_memory_is_the_limit():
    setting = plan.SETTINGS[1]
    times = [plan.decode_s(setting, batch, plan.STEP_GRAPH_S) for batch in (1, 8, 64, 512, 4096)]
    assert all(a >= b for a, b in itertools.pairwise(times))
    assert times[0] == pytest.approx(40 * 1e-3)


def test_the_commands_and_overrides_are_understood(tmp_path, monkeypatch, capsys):
    fits = [shlex.split(command, comments=True)[1:] for command in COMMANDS if command.startswith("lvad fit")]
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "mine.yaml").write_text(block)
    fits.append([*fits[0], "--config", str(tmp_path / "mine.yaml")])
    for args in fits:
        with pytest.raises(SystemExit) as done:
            main([*args, "--print_config"])
        printed = capsys.readouterr()
        assert done.value.code == 0, printed.err
    assert "footage: https://frames.example/shards" in printed.out
    shards = [shlex.split(command, comments=True)[1:] for command in COMMANDS if "data shard" in command]
    assert len(shards) == 3
    monkeypatch.chdir(tmp_path)
    for args in shards:  # understood, and there is no such folder here
        assert main(args) == 1
        assert "recordings: does not exist" in capsys.readouterr().err


def test_what_is_named_exists():
    for name in re.findall(r"`?((?:tests|configs|benchmarks|lvad)/[\w./]+\.\w+)`?", PAGE):
        assert (ROOT / name).is_file(), name
