"""``lvad data``: check a data set, write one of drawn scenes."""

import sys
from typing import Literal

from jsonargparse import ArgumentParser

from lvad.data.check import main_check
from lvad.data.records import DataError


def check(
    root: str,
    format: Literal["auto", "lastframe", "gt_4a_21r", "frames"] = "auto",
    images: str | None = None,
    subset: Literal["all", "single", "grouped"] = "all",
    json: bool = False,
    decode: bool = True,
) -> int:
    """Count a data set per split, action and reason, and find what is wrong with it.

    Args:
        root: its folder.
        format: its layout.
        images: folder of the pictures, where they lie elsewhere.
        subset: ``single`` counts the one-action-one-reason subset of the paper and its 8:2 split, ``grouped`` one that
            keeps recordings whole.
        json: print JSON.
        decode: open every picture (slow on a large set).
    """
    return main_check(root, format, images, subset, json, decode)


def draw(
    root: str,
    num_train: int = 800,
    num_val: int = 128,
    num_test: int = 300,
    seed: int = 0,
    num_frames: int = 2,
    size_px: int = 128,
    num_workers: int = 0,
) -> int:
    """Write drawn scenes in the layout of BDD-OIA's lastframe release.

    Args:
        root: folder to write.
        num_train: scenes of the training split.
        num_val: scenes of the validation split.
        num_test: scenes of the test split.
        seed: the same seed draws the same files.
        num_frames: frames per scene.
        size_px: width and height.
        num_workers: processes; 0 draws in this one.
    """
    from pathlib import Path

    from lvad.data.synthetic import write_synthetic

    write_synthetic(Path(root), num_train, num_val, num_test, seed, num_frames, size_px, num_workers)
    return 0


def run(args: list[str]) -> int:
    """Run ``lvad data ARGS`` and return the exit code."""
    parser = ArgumentParser(prog="lvad data", description="Check a data set, or write one of drawn scenes.")
    commands = parser.add_subcommands()
    functions = {"check": check, "draw": draw}
    for name, function in functions.items():
        sub = ArgumentParser(prog=f"lvad data {name}", description=(function.__doc__ or "").partition("\n")[0])
        sub.add_function_arguments(function, as_positional=True)
        commands.add_subcommand(name, sub, help=sub.description)
    config = parser.parse_args(args)
    try:
        return functions[config.subcommand](**config[config.subcommand].as_dict())
    except DataError as error:
        print(f"lvad: error: {error}", file=sys.stderr)
        return 1
