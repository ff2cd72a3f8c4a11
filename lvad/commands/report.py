"""``lvad report``: tested runs side by side, with intervals, floors and paired differences."""

from collections.abc import Mapping
from pathlib import Path

from jsonargparse import ArgumentParser

from lvad.commands.error_messages import report_user_errors
from lvad.commands.security import parse_command_line
from lvad.errors import DataError
from lvad.report.answers_file import ANSWERS
from lvad.report.compare_answers import compare_answers, read_run, run_names
from lvad.report.compare_scene_scores import compare_scored_runs, read_scored_run, scored_text, write_scored_comparison
from lvad.report.comparison_files import comparison_text, write_comparison
from lvad.report.scene_scores import SCORED


def make_parser() -> ArgumentParser:
    """Make the parser of ``lvad report``'s options."""
    parser = ArgumentParser(
        prog="lvad report",
        exit_on_error=False,
        description="Compare tested runs on the same scenes by their answers, descriptions or rewards; "
        "differences are the first run's minus each other's.",
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="RUN",
        help="tested run folders: all of stages that answer (ActionSFT, TextReader), of RLOOPolicy, or of CLIPReward",
    )
    add("--names", help="what to call them: as many names as runs, separated by commas")
    add("--out", default="logs/report", help="folder for comparison.html, .md, .json, .png, and .csv of answers")
    return parser


@report_user_errors
def run(args: list[str]) -> int:
    """Run ``lvad report ARGS`` and return the exit code."""
    config = parse_command_line(make_parser(), args)
    folders = [Path(folder) for folder in config.runs]
    names = run_names(folders) if config.names is None else _given_names(config.names, len(folders))
    report(dict(zip(names, folders, strict=True)), Path(config.out))
    return 0


def report(folders: Mapping[str, Path], out: Path) -> None:
    """Compare runs, print the tables and write the files.

    Args:
        folders: name to run folder; the differences are the first one's minus each other's.
        out: where the files go.

    Raises:
        DataError: if a run cannot be read, or they cannot be compared.
    """
    if all((folder / SCORED).is_file() and not (folder / ANSWERS).is_file() for folder in folders.values()):
        scored = compare_scored_runs([read_scored_run(folder, name) for name, folder in folders.items()])
        text, files = scored_text(scored), write_scored_comparison(out, scored)
    else:
        _check_kinds(folders)
        found = compare_answers([read_run(folder, name) for name, folder in folders.items()])
        text, files = comparison_text(found), write_comparison(out, found)
    print(f"{text}\ncomparison: {', '.join(map(str, files))}")


def _check_kinds(folders: Mapping[str, Path]) -> None:
    with_answers = [name for name, folder in folders.items() if (folder / ANSWERS).is_file()]
    scored = [name for name, folder in folders.items() if name not in with_answers and (folder / SCORED).is_file()]
    if with_answers and scored:
        raise DataError(
            f"{with_answers[0]!r} has answers with actions and {scored[0]!r} descriptions or a reward: "
            "compare runs that answer, or runs of one other stage"
        )


def _given_names(text: str, num_runs: int) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) != num_runs:
        raise DataError(f"--names must be as many as the {num_runs} runs, got {len(names)}: {names}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"--names must all be different, got {twice[0]!r} twice")
    return names
