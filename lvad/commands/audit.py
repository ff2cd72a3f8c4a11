"""``lvad audit``: prove that a reward means something before a policy is trained on it."""

import json
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, Final, cast

from jsonargparse import ArgumentParser, Namespace
from torch import nn
from torch.utils.data import DataLoader

from lvad.assets import resolve_config
from lvad.audit import Audit, run_audit
from lvad.audit.probes import PROBES
from lvad.audit.right_texts import TEXT_SOURCES
from lvad.commands.accelerators import accelerator
from lvad.commands.error_messages import innermost_message, report_user_errors
from lvad.commands.renamed_keys import check_keys
from lvad.commands.security import confirm_api_keys, parse_command_line, with_import_checks
from lvad.commands.yaml_files import read_yaml
from lvad.data.collate import SceneDataset, collate
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.reading import SPLITS
from lvad.data.source import Source
from lvad.data.split_algorithms import seeded_subset
from lvad.errors import DataError
from lvad.report.audit_report import audit_picture, audit_table
from lvad.report.runs import write_atomically
from lvad.rewards import CLIPCosine, Reader
from lvad.rewards.reader import CONFIG as READER_CONFIG
from lvad.types import Reward

_DESCRIPTION: Final = """Hold the right text of labelled scenes against probes that a good reward must rank lower.

A probe passes where the 95 % intervals of the separation (mean of right - probe) and of the win rate lie above 0 and
1/2. Probes: """
AUDIT: Final = "audit.json"
_AUDITS: Final = Path("logs/audit")
_REMEDY: Final = (
    "give a folder that `lvad fit` of a reward or a reader wrote, embedded/clip-reward, hf-hub:NAME, "
    "or the .yaml of a run with a reward"
)


def make_parser() -> ArgumentParser:
    """Make the parser of ``lvad audit``'s options."""
    probes = "; ".join(f"{name}: {probe.says}" for name, probe in PROBES.items())
    parser = ArgumentParser(prog="lvad audit", description=_DESCRIPTION + probes, exit_on_error=False)
    add = parser.add_argument
    add(
        "--reward",
        required=True,
        help="folder of a CLIP or a reader, embedded/NAME, hub name, or a .yaml with model.init_args.reward",
    )
    add("--pretrained", type=str | None, help="weights of an open_clip architecture given by name")
    add("--texts", choices=TEXT_SOURCES, default="reason", help="where the right texts come from")
    add("--root", default="data/synthetic", help="folder of the scenes")
    formats = ("synthetic", "lastframe", "gt_4a_21r", "jsonl")
    add("--format", choices=formats, default="synthetic", help="its layout; synthetic is drawn if absent")
    add("--images", type=str | None, help="folder of the pictures, where they lie elsewhere")
    add("--taxonomy", default="bdd_oia", help="label set: a .yaml file, or the name of one that ships with lvad")
    add("--split", choices=SPLITS, default="test", help="which scenes")
    add("--num_scenes", type=int, default=300, help="the most scenes to use")
    add("--num_frames", type=int, default=2, help="the most frames of a scene")
    add("--batch_size", type=int, default=16, help="scenes scored at once")
    add("--seed", type=int, default=0, help="of what is drawn: scenes, texts, orders of words")
    add("--out", type=str | None, help="folder for audit.json and audit.png; by default a new logs/audit/version_<n>")
    add("--json", nargs="?", const="", help="print the JSON alone; with a PATH write it there beside the table")
    return parser


@report_user_errors
def run(args: list[str]) -> int:
    """Run ``lvad audit ARGS`` and return the exit code: 0 for a reward that passes, 1 for one that fails."""
    config = parse_command_line(make_parser(), args)
    folder = _output_folder(config.out)
    audit = run_audit(build_reward(config.reward, config.pretrained), _scenes(config), config.texts, config.seed)
    _write(audit, config, folder)
    return int(audit.verdict == "fail")


def build_reward(name: str, pretrained: str | None = None) -> Reward:
    """Build the reward to audit, on the accelerator if there is one.

    Args:
        name: what ``CLIPCosine`` takes, a reader's folder, or a ``.yaml`` with a reward in ``model.init_args``.
        pretrained: as for ``CLIPCosine``.

    Raises:
        DataError: for a configuration without a reward, or a model that cannot be loaded.
        FileNotFoundError: if there is no such file or folder.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        reward = _from_configuration(resolve_config(name))
    elif (Path(name) / READER_CONFIG).is_file():
        reward = Reader(name)
    else:
        try:
            reward = CLIPCosine(name, pretrained)
        # open_clip has an error of every kind: an unknown architecture, missing weights, weights of another shape.
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise _reward_error(name, error) from error
    if isinstance(reward, nn.Module):
        reward.to(accelerator())
    return reward


def _from_configuration(path: Path) -> Reward:
    content = read_yaml(path)
    check_keys(content, path)
    try:
        found = content["model"]["init_args"]["reward"]
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: no reward at model.init_args.reward; {_REMEDY}") from error
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reward", type=Reward)
    try:
        config = with_import_checks(lambda: parser.parse_object({"reward": found}))
        confirm_api_keys(config)
        return cast(Reward, parser.instantiate_classes(config)["reward"])
    except Exception as error:  # the constructor may be anyone's
        raise _reward_error(str(path), error) from error


def _reward_error(name: str, error: Exception) -> DataError:
    return DataError(
        f"no reward from {name!r}: {shorten(innermost_message(str(error)), 300, placeholder=' ...')}; {_REMEDY}"
    )


def _output_folder(out: str | None) -> Path:
    """Choose a folder without an audit."""
    if out is not None:
        if (Path(out) / AUDIT).exists():
            raise DataError(f"{out} holds an audit already; name another folder with --out")
        return Path(out)
    numbers = [path.name.removeprefix("version_") for path in _AUDITS.glob("version_*")]
    return _AUDITS / f"version_{1 + max((int(number) for number in numbers if number.isdigit()), default=-1)}"


def _write(audit: Audit, config: Namespace, folder: Path) -> None:
    found = {"reward": config.reward, **audit.as_dict()}
    text = json.dumps(found, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / AUDIT, text)
    title = f"{config.reward}, texts: {audit.texts}, {audit.num_scenes} scenes: {audit.verdict}"
    picture = audit_picture(audit, title, folder / "audit.png")
    if config.json == "":
        print(text, end="")
        return
    if config.json:
        write_atomically(Path(config.json), text)
    print(f"audit of {config.reward}, written to {folder / AUDIT} and {picture}\n\n{audit_table(audit)}")


def _scenes(config: Namespace) -> DataLoader[Any]:
    """Read at most ``num_scenes`` scenes of the split, in order."""
    root = Path(config.root).expanduser()
    is_there = root.is_dir() and any(root.iterdir())
    data = BDDOIADataModule(
        Source(
            "lastframe" if is_there and config.format == "synthetic" else config.format,
            config.root,
            images=config.images,
            num_frames=config.num_frames,
        ),
        taxonomy=config.taxonomy,
    )
    data.prepare_data()
    data.setup()
    found = data.scenes[config.split]
    scenes = seeded_subset(found, min(config.num_scenes, len(found)), config.seed, "num_scenes")
    if not scenes:
        raise DataError.at(root, "", f"no {config.split} scenes", "choose another --split, or raise --num_scenes")
    items = SceneDataset(scenes, config.num_frames)
    return DataLoader(items, batch_size=config.batch_size, collate_fn=partial(collate, taxonomy=data.taxonomy))
