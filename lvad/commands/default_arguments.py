"""Default arguments of ``lvad test``, ``validate`` and ``predict``: configuration, checkpoint and data."""

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from lvad.assets import resolve_config
from lvad.commands.checkpoint_io import check_checkpoint
from lvad.commands.yaml_files import read_yaml
from lvad.data.reading import encoding_of
from lvad.errors import DataError
from lvad.report.runs import CONFIG, LOGS, best_checkpoint, newest_run

DEFAULT_PREDICT_CONFIG: Final = "configs/rloo.yaml"
"""The configuration of the model that describes where there is no run yet."""
_CONFIG_OPTIONS: Final = ("--config", "-c")
_FLAGS: Final = ("--help", "-h", "--print_config")  # options without a value
_CHECKPOINT: Final = "--ckpt_path"
_NO_CHECKPOINT: Final = ("null", "none", "None")
_IN_RUN: Final = ("best", "last")
"""Names of checkpoints in the run whose configuration is taken."""


class _Option(NamedTuple):
    name: str
    value: str | None
    tokens: list[str]
    """The arguments as they were typed."""


class _Source(NamedTuple):
    """The arguments to put before and after the given options."""

    before: list[str]
    after: list[str]
    options: list[_Option]


def complete_arguments(command: str, args: list[str]) -> list[str]:
    """Complete a command line.

    Without a configuration the one beside the checkpoint is taken, without either the newest run. Without a checkpoint
    it is the best one of the run whose configuration is taken.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        args: what follows it. ``predict`` takes a PATH anywhere among its options, and ``--out DIR``; ``test`` and
            ``validate`` take the folder of a run.

    Returns:
        Options that LightningCLI knows; configurations are found by name, and checked.

    Raises:
        DataError: for a checkpoint without a configuration, an evaluation without a checkpoint, several paths, or a
            folder that is not one of a run.
        FileNotFoundError: for a configuration that is nowhere, or without any run.
    """
    options, paths = _split(args)
    if any(option.name in ("--help", "-h") for option in options):
        return args
    if command in ("test", "validate") and paths:
        options = [_config_of_run(command, paths), *options]
    options = [_resolve_config_path(option) for option in options]
    if command == "fit":
        return [*_tokens(options), *paths]
    source = _complete_source(command, options)
    if command == "predict":
        return [*source.before, *_tokens(_predict_options(source.options, paths)), *source.after]
    return [*source.before, *_tokens(source.options), *source.after]


def _split(args: list[str]) -> tuple[list[_Option], list[str]]:
    """Split arguments into options with their values, and positional arguments."""
    options, paths = [], []
    waiting = deque(args)
    while waiting:
        arg = waiting.popleft()
        name, has_value, value = arg.partition("=")
        if not arg.startswith("-"):
            paths.append(arg)
        elif has_value or name in _FLAGS or not waiting or waiting[0].startswith("--"):
            options.append(_Option(name, value if has_value else None, [arg]))
        else:
            value = waiting.popleft()
            options.append(_Option(name, value, [arg, value]))
    return options, paths


def _tokens(options: Iterable[_Option]) -> list[str]:
    return [token for option in options for token in option.tokens]


def _option(name: str, value: str) -> _Option:
    return _Option(name, value, [name, value])


def _config_of_run(command: str, paths: list[str]) -> _Option:
    """Name the configuration of the run whose folder was given."""
    if len(paths) > 1:
        raise DataError(f"lvad {command} takes one run folder, got {len(paths)}: {paths}; give options as --KEY VALUE")
    config = Path(paths[0]) / CONFIG
    if not config.is_file():
        remedy = f"give a folder such as {LOGS}/rloo/version_0, or {_CHECKPOINT} FILE"
        raise DataError.at(paths[0], "", f"is no folder of a run: it has no {CONFIG}", remedy)
    return _option("--config", str(config))


def _resolve_config_path(option: _Option) -> _Option:
    """Find the file of a configuration and check it within bounds, which the parser does not have."""
    if option.name not in _CONFIG_OPTIONS or option.value is None:
        return option
    path = resolve_config(option.value)
    read_yaml(path)
    if not (encoding := encoding_of(path)).startswith("utf-8"):
        raise DataError.at(path, "", f"is a configuration in {encoding}", "save it as UTF-8")
    return _option(option.name, str(path))


def _predict_options(options: list[_Option], paths: list[str]) -> list[_Option]:
    """Order the options of a prediction: options before a configuration would be overridden by it."""
    if len(paths) > 1:
        raise DataError(f"predict takes one picture, video or folder of them, got {len(paths)}: {paths}")
    configs = [option for option in options if option.name in _CONFIG_OPTIONS]
    data = [_option("--data.source.format", "frames"), _option("--data.source.root", paths[0])] if paths else []
    rest = [option for option in options if option.name not in _CONFIG_OPTIONS]
    out = [_option("--predictions.folder", option.value or "") for option in rest if option.name == "--out"]
    return [*configs, *data, *(option for option in rest if option.name != "--out"), *out]


def _complete_source(command: str, options: list[_Option]) -> _Source:
    configs = [option.value or "" for option in options if option.name in _CONFIG_OPTIONS]
    given = [option.value for option in options if option.name == _CHECKPOINT]
    name = given[-1] if given else None
    if name is not None and name not in _IN_RUN:
        if not configs and name in _NO_CHECKPOINT:
            raise DataError(f"{_CHECKPOINT} {name} is the model as a configuration names it: give one with --config")
        return _Source([] if configs else ["--config", str(_config_beside(name))], [], options)
    if not configs and name is None and command == "predict" and not _has_run():
        print("lvad: no run under logs/ yet: describing with the embedded model as it ships")
        return _Source(["--config", str(resolve_config(DEFAULT_PREDICT_CONFIG))], [], options)
    run = _run_of_configs(configs) if configs else newest_run(LOGS)
    if run is None:
        if name is None:
            _check_untrained(command, configs[-1])
        return _Source([], [], options)
    checkpoint = best_checkpoint(run) if name is None else run / "checkpoints" / f"{name}.ckpt"
    print(f"lvad: run {run}, checkpoint {checkpoint.name}")
    others = [option for option in options if option.name != _CHECKPOINT]
    before = [] if configs else ["--config", str(run / CONFIG)]
    return _Source(before, [_CHECKPOINT, str(checkpoint)], others)


def _config_beside(name: str) -> Path:
    """Find the configuration of the run that wrote a checkpoint."""
    check_checkpoint(name)
    checkpoint = Path(name)
    if not checkpoint.exists():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}")
    path = checkpoint.resolve().parent.parent / CONFIG
    if not path.is_file():
        problem = f"there is no {CONFIG} of its run (looked for {path})"
        raise DataError.at(checkpoint, "", problem, "name the configuration with --config")
    return path


def _has_run() -> bool:
    try:
        newest_run(LOGS)
    except FileNotFoundError:
        return False
    return True


def _run_of_configs(configs: list[str]) -> Path | None:
    """Find the run whose own configuration is among these; None where none has a checkpoint beside it."""
    for folder in (Path(config).parent for config in configs if Path(config).name == CONFIG):
        if any((folder / "checkpoints" / f"{name}.ckpt").exists() for name in _IN_RUN):
            return folder
    return None


def _check_untrained(command: str, config: str) -> None:
    """Refuse to test or validate an untrained model, and say where a prediction uses one."""
    content = read_yaml(Path(config))
    if isinstance(content, dict) and content.get("ckpt_path"):
        return
    if command == "predict":
        print(f"lvad: no checkpoint: describing with the model as {config} names it")
        return
    problem = f"lvad {command} without a checkpoint is one of the model before its training"
    raise DataError.at(config, "", problem, f"give {_CHECKPOINT} FILE, or {_CHECKPOINT} null if that is what you want")
