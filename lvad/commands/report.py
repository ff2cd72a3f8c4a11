"""``lvad report``: tested runs side by side, with intervals, floors and paired differences."""

import sys
from collections.abc import Mapping
from pathlib import Path

from jsonargparse import ArgumentParser

from lvad.data.records import DataError
from lvad.report.compare import compare, read_run, run_names
from lvad.report.compare_files import comparison_text, write_comparison


def make_parser() -> ArgumentParser:
    """The options of ``lvad report``."""
    parser = ArgumentParser(
        prog="lvad report",
        description="Compare tested runs of lvad.modules.ActionSFT on the same scenes; differences are the first "
        "run's minus each other's.",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="run folders that 'lvad test' wrote answers.jsonl into")
    add("--names", help="what to call them: as many names as runs, separated by commas")
    add("--out", default="logs/report", help="folder for comparison.md, .csv, .json and .png")
    return parser


def run(args: list[str]) -> int:
    """Run ``lvad report ARGS`` and return the exit code."""
    config = make_parser().parse_args(args)
    folders = [Path(folder) for folder in config.runs]
    try:
        names = run_names(folders) if config.names is None else _given_names(config.names, len(folders))
        report(dict(zip(names, folders, strict=True)), Path(config.out))
    # A folder that cannot be written ends in one line too.
    except (ValueError, OSError) as error:
        print(f"lvad: error: {error}", file=sys.stderr)
        return 1
    return 0


def report(folders: Mapping[str, Path], out: Path) -> None:
    """Compare runs, print the tables and write the files.

    Args:
        folders: name to run folder; the differences are the first one's minus each other's.
        out: where the files go.

    Raises:
        DataError: if a run cannot be read, or they cannot be compared.
    """
    found = compare([read_run(folder, name) for name, folder in folders.items()])
    files = write_comparison(out, found)
    print(f"{comparison_text(found)}\ncomparison: {', '.join(map(str, files))}")


def _given_names(text: str, num_runs: int) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) != num_runs:
        raise DataError(f"--names must be as many as the {num_runs} runs, got {len(names)}: {names}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"--names must all be different, got {twice[0]!r} twice")
    return names
