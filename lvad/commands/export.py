"""``lvad export``: a finished run as a folder that plain transformers, peft or open_clip reads without lvad."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from jsonargparse import ArgumentParser, Namespace

from lvad.commands.error_messages import report_user_errors
from lvad.commands.export_write import ExportResult, write_adapter, write_clip, write_policy
from lvad.commands.library_messages import filter_library_messages
from lvad.commands.security import parse_command_line
from lvad.commands.trained_run import BEST, TrainedRun, base_model_folders, load_run, load_trial_scenes
from lvad.data import ledger
from lvad.errors import DataError
from lvad.modules import ActionSFT, CLIPReward, TextReader
from lvad.policy import HFPolicy
from lvad.report.model_card import CARD, Exported, model_card
from lvad.report.runs import MODEL, read_metrics, write_atomically
from lvad.taxonomy import FILE, dump_taxonomy

PROMPTS: Final = "prompts.json"
_KEPT: Final = (MODEL, "checkpoints")  # of the run, where no export may go


def make_parser() -> ArgumentParser:
    """Make the parser of ``lvad export``'s options."""
    parser = ArgumentParser(prog="lvad export", description=__doc__, exit_on_error=False)
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder that 'lvad fit' wrote, such as logs/rloo/version_0")
    add("folder", metavar="DIR", help="where to")
    add("--checkpoint", default=BEST, help="best, last, or a checkpoint file")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, default="float32", help="of the written weights; adapters are merged in float32")
    add("--adapter", action="store_true", help="write only the adapters, for peft on the base model")
    add("--num_scenes", type=int, default=4, help="scenes to try the model on, a few forwards each")
    add("--overwrite", action="store_true", help="replace an earlier export")
    return parser


@report_user_errors
def run(args: list[str]) -> int:
    """Run ``lvad export ARGS`` and return the exit code: 0, or 1 where nothing was written."""
    config = parse_command_line(make_parser(), args)
    filter_library_messages()
    _export(config)
    return 0


def _export(config: Namespace) -> None:
    folder, target = (Path(os.path.expanduser(name)) for name in (config.run, config.folder))
    target = Path(os.path.realpath(target))  # Path.resolve() has no patience with a link to itself
    if config.adapter and config.dtype != "float32":
        raise DataError("--adapter writes float32; --dtype is for whole models, leave one of the two out")
    if config.num_scenes < 1:
        raise DataError(f"--num_scenes must be at least 1, got {config.num_scenes}: nothing is written untried")
    check_output_folder(target, config.overwrite)
    check_no_overlap(target, [folder / name for name in _KEPT])
    run = load_run(folder, config.checkpoint)
    budget = ledger.ledger_of_run(folder)
    check_no_overlap(target, base_model_folders(run.module))
    _print_line(f"{type(run.module).__name__} of {folder}, checkpoint {run.checkpoint.name}, step {run.step}")
    with atomic_folder(target, config.overwrite) as scratch:
        written = _write(run, scratch, config)
        for check in written.checks:
            _print_line(check)
        _write_metadata(run, scratch, written, budget, config)
    _print_line(f"exported to {config.folder} ({_size_mb(target):.1f} MB), see {Path(config.folder) / CARD}")


def _write(run: TrainedRun, scratch: Path, config: Namespace) -> ExportResult:
    if isinstance(run.module, TextReader):
        problem = "a reader has no weights for other tools, and its policy is as it was"
        raise DataError.at(run.folder, "", problem, "take the run's folder model/ as it is")
    shown = load_trial_scenes(run.data, config.num_scenes)
    if isinstance(run.module, CLIPReward):
        if config.adapter:
            raise DataError("a reward has no adapters; leave --adapter out to export the CLIP")
        return write_clip(run.module, shown, scratch, config.dtype, run.data.taxonomy)
    if config.adapter:
        return write_adapter(run.module, shown, scratch)
    return write_policy(run.module, shown, scratch, config.dtype)


def _write_metadata(
    run: TrainedRun, scratch: Path, written: ExportResult, budget: ledger.Ledger, config: Namespace
) -> None:
    """Write prompts, ledger, label set and model card."""
    policy = getattr(run.module, "policy", None)
    if isinstance(policy, HFPolicy):
        prompts = asdict(policy.prompts) | {"decide": policy.prompts.question(run.data.taxonomy)}
        write_atomically(scratch / PROMPTS, json.dumps(prompts, indent=2) + "\n")
    write_atomically(scratch / ledger.LEDGER, ledger.dump_ledger(budget))
    write_atomically(scratch / FILE, dump_taxonomy(run.data.taxonomy))
    of_best = run.checkpoint.name == "best.ckpt" and run.checkpoint.resolve().parent.parent == run.folder.resolve()
    exported = Exported(
        kind=written.kind,
        stage=type(run.module).__name__,
        title=Path(config.folder).resolve().name,
        base=run.base,
        hub_id=_hub_id(run),
        trained=f"checkpoint `{run.checkpoint.name}`, step {run.step}",
        is_best=of_best,
        dtype=written.dtype,
        data=_data_description(run),
        asks=_prompt_name(run),
        checks=written.checks,
        limits=_limits(run),
    )
    write_atomically(scratch / CARD, model_card(exported, budget, read_metrics(run.folder)))
    for file in filter(Path.is_file, scratch.rglob("*")):  # safetensors are written for their owner alone
        shutil.copymode(scratch / CARD, file)


def _hub_id(run: TrainedRun) -> str | None:
    part = getattr(run.module, "policy", None) or getattr(run.module, "clip", None)
    name = getattr(part, "source", "")
    return None if Path(name).is_dir() or "/" not in name else name.removeprefix("hf-hub:")


def _prompt_name(run: TrainedRun) -> str:
    """Return the entry of the prompts that the model of one stage is asked."""
    return "decide" if isinstance(run.module, ActionSFT) and run.module.target != "caption" else "describe"


def _data_description(run: TrainedRun) -> str:
    data = run.data
    size = "" if data.source.image_size_px is None else f", reduced to {data.source.image_size_px} px"
    return f"`{data.source.path.name}` ({data.source.format}), at most {data.source.num_frames} frames per scene{size}"


def _limits(run: TrainedRun) -> list[str]:
    """List what plain transformers does not do as the run did."""
    module, found = run.module, []
    if isinstance(module, ActionSFT) and module.grammar is not None:
        found.append(
            "In lvad the answers are decoded over their grammar and always valid; here they are written freely."
        )
    if isinstance(module, ActionSFT) and module.logit_adjustment:
        found.append("In lvad the decision is corrected for common actions (`logit_adjustment`); here it is not.")
    if isinstance(module, ActionSFT) and module.voting is not None:
        found.append("In lvad the decision is the mean of several views (`voting`); here it is that of one.")
    if isinstance(module, ActionSFT) and module.describer.is_oracle:
        found.append("It was trained after true descriptions made of labels, an upper bound; here there are none.")
    if isinstance(module, CLIPReward):
        slope, offset = module.calibration.tolist()
        found.append(
            f"Cosines are no probabilities: P(match) = sigmoid({slope:.4g} * cosine + {offset:.4g}), fitted on "
            "right and wrong texts of the run's validation scenes."
        )
    return found


def check_output_folder(target: Path, overwrite: bool) -> None:
    """Refuse to write into a folder with other files.

    Raises:
        DataError: for a file, a folder that is not empty without ``overwrite``, or one that no export wrote with it.
    """
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise DataError.at(target, "", "is a file", "give a folder")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise DataError.at(
            target, "", "is not empty", "give another folder, or --overwrite to replace an earlier export"
        )
    if not all((target / name).is_file() for name in (CARD, ledger.LEDGER)):
        problem = f"holds files that no export wrote: there is no {CARD} beside a {ledger.LEDGER}"
        raise DataError.at(target, "", problem, "move it away, or give another folder")


def check_no_overlap(target: Path, kept: list[Path]) -> None:
    """Refuse an output folder that overlaps the run's folder or those of its models.

    Raises:
        DataError: naming it.
    """
    for path in (path.resolve() for path in kept):
        if target == path or path in target.parents or target in path.parents:
            raise DataError.at(target, "", f"would lie in, or replace, {path}, which the run needs", "give another DIR")


@contextlib.contextmanager
def atomic_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """Make a folder beside the target that replaces it when the block succeeds, and is removed when it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()  # with the usual permissions, unlike the one around it
        yield new
        check_output_folder(target, overwrite)  # much may have happened meanwhile
        if target.is_dir():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            if old.is_dir():
                os.replace(old, target)
            raise


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def _print_line(text: str) -> None:
    print(f"lvad: {text}", flush=True)
