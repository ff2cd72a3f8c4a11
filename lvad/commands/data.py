"""``lvad data``: check a data set, convert one, write one of synthetic scenes, make shards of footage."""

import inspect
import re
from collections.abc import Callable
from typing import Literal

from jsonargparse import ActionYesNo, ArgumentParser

from lvad.commands.error_messages import report_user_errors
from lvad.commands.security import parse_command_line
from lvad.data.check import main_check


def run_check(
    root: str,
    format: Literal["auto", "lastframe", "gt_4a_21r", "jsonl", "frames"] = "auto",
    images: str | None = None,
    subset: Literal["all", "single", "grouped"] = "all",
    json: bool = False,
    decode: bool = True,
    taxonomy: str = "bdd_oia",
) -> int:
    """Count a data set per split, action and reason, and find what is wrong with it.

    Args:
        root: its folder, or a .jsonl file.
        format: its layout.
        images: folder of the pictures, where they lie elsewhere.
        subset: ``single`` counts the one-action-one-reason subset of the paper and its 8:2 split, ``grouped`` one that
            keeps recordings whole.
        json: print JSON.
        decode: open every picture (slow on a large set).
        taxonomy: label set, a .yaml file or the name of one that ships with lvad.
    """
    return main_check(root, format, images, subset, json, decode, taxonomy=taxonomy)


def run_draw(
    root: str,
    num_train: int = 800,
    num_val: int = 128,
    num_test: int = 300,
    seed: int = 0,
    num_frames: int = 2,
    size_px: int = 128,
    num_workers: int = 0,
    taxonomy: str = "bdd_oia",
) -> int:
    """Write synthetic scenes in the layout of BDD-OIA's lastframe release.

    Args:
        root: folder to write.
        num_train: scenes of the training split.
        num_val: scenes of the validation split.
        num_test: scenes of the test split.
        seed: the same seed draws the same files.
        num_frames: frames per scene.
        size_px: width and height.
        num_workers: processes; 0 draws in this one.
        taxonomy: label set, a .yaml file or the name of one that ships with lvad; its reasons must speak of what is
            drawn.
    """
    from pathlib import Path

    from lvad.data.synthetic import write_synthetic
    from lvad.taxonomy import load_taxonomy

    counts, sizes = (num_train, num_val, num_test), (seed, num_frames, size_px, num_workers)
    write_synthetic(Path(root), *counts, *sizes, taxonomy=load_taxonomy(taxonomy))
    return 0


def run_convert(
    source: str,
    out: str,
    format: Literal["auto", "lastframe", "gt_4a_21r", "jsonl", "bddx"] = "auto",
    images: str | None = None,
    num_frames: int = 2,
    taxonomy: str = "bdd_oia",
) -> int:
    """Write labelled scenes of any layout, or of BDD-X, as one .jsonl file, which reads as the same scenes.

    Args:
        source: folder of the label files, a .jsonl file, or BDD-X's .csv with the lists of its splits beside it.
        out: the .jsonl file to write; paths of pictures are relative to its folder.
        format: layout of the source.
        images: folder of the pictures or videos, where they lie elsewhere.
        num_frames: the most frames of a scene.
        taxonomy: label set, a .yaml file or the name of one that ships with lvad.
    """
    from pathlib import Path

    from lvad.data.convert import convert_to_jsonl
    from lvad.taxonomy import load_taxonomy

    folder = Path(images).expanduser() if images else None
    target = Path(out).expanduser()
    reading = convert_to_jsonl(Path(source).expanduser(), target, format, folder, num_frames, load_taxonomy(taxonomy))
    left_out = "".join(f"; {count} left out ({why})" for why, count in reading.dropped.items())
    without = "" if reading.has_images else "; without pictures, which were not found"
    print(f"{len(reading.scenes)} scenes: {out}{left_out}{without}")
    return 0


def run_shard(
    source: str,
    folder: str,
    num_frames: int = 2,
    stride: int = 1,
    fps: float = 1.0,
    scenes_per_shard: int = 1000,
    image_size_px: int | None = None,
    video_stream: int | None = None,
    progress: bool = True,
) -> int:
    """Make shards of unlabelled footage for ``--data.source.footage``; run again, it goes on where it was broken off.

    Args:
        source: folders of frames, videos, or both; a JPEG file keeps its bytes.
        folder: where the shards go: empty, absent, or left by the same command.
        num_frames: M, frames of a scene.
        stride: frames between neighbouring scenes; 5 with ``fps`` 1 gives a scene every 5 seconds.
        fps: frames per second taken from a video.
        scenes_per_shard: how many scenes a shard holds.
        image_size_px: reduce larger frames to this longest edge; null keeps them.
        video_stream: which of a video's several streams, counted from 0; null takes the default or the largest one.
        progress: show a progress bar.
    """
    from pathlib import Path

    from lvad.data.shard_source import ShardRecipe
    from lvad.data.shard_writer import write_shards

    recipe = ShardRecipe(source, num_frames, stride, fps, scenes_per_shard, image_size_px, video_stream)
    written = write_shards(recipe, Path(folder).expanduser(), progress)
    left_out = f"; {written.num_left_out} files left out, named above" if written.num_left_out else ""
    print(f"{written.num_scenes} scenes in {written.num_shards} shards: {folder}{left_out}")
    return 0


def _add_options(parser: ArgumentParser, function: Callable[..., int]) -> None:
    """Add the parameters of a function as options; a boolean one is two flags, ``--name`` and ``--no_name``."""
    parameters = inspect.signature(function).parameters.values()
    flags = [parameter for parameter in parameters if parameter.annotation is bool]
    parser.add_function_arguments(function, as_positional=True, skip={flag.name for flag in flags})
    for flag in flags:
        said = re.search(rf"^ +{flag.name}: (.+)$", function.__doc__ or "", re.M)
        parser.add_argument(f"--{flag.name}", action=ActionYesNo, default=flag.default, help=said[1] if said else None)


@report_user_errors
def run(args: list[str]) -> int:
    """Run ``lvad data ARGS`` and return the exit code."""
    description = "Check a data set, convert or draw one, or make shards of footage."
    parser = ArgumentParser(prog="lvad data", description=description, exit_on_error=False)
    commands = parser.add_subcommands()
    functions = {"check": run_check, "convert": run_convert, "draw": run_draw, "shard": run_shard}
    for name, function in functions.items():
        sub = ArgumentParser(prog=f"lvad data {name}", description=(function.__doc__ or "").partition("\n")[0])
        _add_options(sub, function)
        commands.add_subcommand(name, sub, help=sub.description)
    config = parse_command_line(parser, args)
    return functions[config.subcommand](**config[config.subcommand].as_dict())
