"""``lvad fit | validate | test | predict``: LightningCLI over the stages and one data module."""

import itertools
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lvad.assets import resolve_config
from lvad.commands.checkpoint_file import check_checkpoint
from lvad.commands.checkpoint_write import WholeFileIO
from lvad.commands.configured import Configured
from lvad.commands.last_checkpoint import LastCheckpoint
from lvad.commands.one_line import in_one_line, innermost
from lvad.commands.resume import LAST, go_on, runs_of
from lvad.commands.run_folder import trainer_root
from lvad.commands.signals import Stopped, StopSignals
from lvad.commands.terminal import progress_bar, quieten
from lvad.commands.trust import ask_for_keys, parsed
from lvad.commands.yaml_files import read_yaml
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.records import DataError
from lvad.modules.plan import Plan
from lvad.modules.step_seeds import StepSeeds
from lvad.report.alarms import Alarms
from lvad.report.board import TensorBoard
from lvad.report.broken import TracebackFile
from lvad.report.predictions import PredictionWriter
from lvad.report.recorder import RunRecorder
from lvad.report.runs import LOGS, best_checkpoint, newest_run
from lvad.report.scored import ScoredFile
from lvad.report.summary import scores_text

CHECKPOINT_DEFAULTS = {
    "checkpoint.filename": "best",
    "checkpoint.auto_insert_metric_name": False,
    "checkpoint.enable_version_counter": False,
}


class StageCLI(LightningCLI):
    """The modules by class path, the data module, and the callbacks that every run has.

    ``checkpoint`` (ModelCheckpoint), ``plan``, ``recorder``, ``alarms`` and ``predictions`` are configured beside
    ``model`` and ``data``.
    """

    resumed: Path | None = None
    """The run that goes on in its own folder."""

    def __init__(self, stop: StopSignals, **kwargs: Any) -> None:
        self.stop = stop
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what every run has."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(Plan, "plan")
        parser.add_lightning_class_args(RunRecorder, "recorder")
        parser.add_lightning_class_args(Alarms, "alarms")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.set_defaults(CHECKPOINT_DEFAULTS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; what the configuration names outside lvad and its libraries is said before it is imported."""
        self.config = parsed(parser, args)

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses is the user's to mend.

        Raises:
            DataError: with the constructor's message, or where a key would go to a host that was not agreed to.
        """
        ask_for_keys(self.config)
        try:
            super().instantiate_classes()
        except (ValueError, OSError, RuntimeError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise DataError(innermost(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lightning's trainer; checkpoints are written whole, unless the configuration has a plugin for them."""
        if self.subcommand == "fit":
            # Beside the configuration, so that another fit of it has a folder of its own.
            kwargs |= trainer_root(self.config["fit"], self.resumed)
        trainer = super().instantiate_trainer(**kwargs)
        strategy = trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = WholeFileIO()
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        given = config.get("callbacks") or []
        has_bar = any(isinstance(part, ProgressBar) for part in (given if isinstance(given, list) else [given]))
        is_wanted = config.get("enable_progress_bar") is not False and not config.get("barebones")
        scored = [ScoredFile(part.run_dir) for part in callbacks if isinstance(part, RunRecorder)]
        bars = [progress_bar()] if is_wanted and not has_bar else []
        return super()._instantiate_trainer(config, [*callbacks, *scored, *bars])

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is: file and command line win over what a checkpoint remembers.

        Lightning 2.6 lets a checkpoint's hyperparameters override the command line without a word
        (Lightning-AI/pytorch-lightning#21455).
        """

    def before_instantiate_classes(self) -> None:
        """A fit that goes on, and an evaluation, write into the run's folder instead of opening a new one."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            self.stop.ckpt_path = LAST if runs_of(config) else None
            if config.ckpt_path == LAST:
                self.resumed = go_on(config)
            elif config.ckpt_path:
                check_checkpoint(config.ckpt_path)
            return
        if config.ckpt_path:
            check_checkpoint(config.ckpt_path)
        if self.subcommand == "test":
            config.verbose = False  # Lightning would print every number of every label; see after_test
        if config.recorder.run_dir is not None or not config.ckpt_path:
            return
        run = Path(config.ckpt_path).resolve().parent.parent
        if (run / "config.yaml").is_file():
            config.recorder.run_dir = str(run)
            config.trainer.logger = False

    def after_fit(self) -> None:
        """End with what went wrong, and the one line that says where the run lies."""
        for alarm in self._get(self.config_init, "alarms").raised:
            print(f"alarm at step {alarm['step']}, {alarm['alarm']}: {alarm['text']}")
        print(self._get(self.config_init, "recorder").closing)

    def after_test(self) -> None:
        """End with the scores over all scenes, and the tables."""
        scores = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        print(scores_text(scores, getattr(self.model, "report", [])))


class SaveConfig(SaveConfigCallback):
    """Saves the configuration when training starts: one that was refused before never ran."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show its values in TensorBoard too."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_configuration(self.config.as_dict())


def make_cli(args: list[str], command: str | None = None, stop: StopSignals | None = None) -> StageCLI:
    """Parse arguments and build trainer, module and data; with a command, run it.

    Args:
        args: options; ``--config`` and overrides.
        command: ``fit``, ``validate``, ``test`` or ``predict``; None only builds.
        stop: the signals that the process has received; None for none.
    """
    stop = stop or StopSignals()
    return StageCLI(
        stop,
        model_class=LightningModule,
        datamodule_class=BDDOIADataModule,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        trainer_defaults={"callbacks": [StepSeeds(), Configured(), LastCheckpoint(stop), TracebackFile()]},
        seed_everything_default=0,
        save_config_callback=SaveConfig if command == "fit" else None,
        save_config_kwargs={"overwrite": True},  # where no versioned logger is set, a second run replaces the first
        run=command is not None,
        args=[command, *args] if command else args,
        parser_kwargs={"exit_on_error": False},
    )


@in_one_line
def run_stage(command: str, args: list[str], stop: StopSignals) -> int:
    """Run one LightningCLI subcommand.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        args: what follows it; ``test`` without arguments and ``predict PATH`` are completed from the newest run.
        stop: the signals that the process receives.

    Returns:
        The exit code.
    """
    quieten()
    try:
        make_cli(_find_configs(_complete(command, args)), command, stop)
    except SIGTERMException:  # by which Lightning's loops end
        raise Stopped(stop.code) from None
    return 0


def _complete(command: str, args: list[str]) -> list[str]:
    if command == "test" and not _names_config(args) and "--help" not in args and "-h" not in args:
        return [*_newest(), *args]
    if command == "predict" and args and not args[0].startswith("-"):
        source = [] if _names_config(args) else _newest_or_start()
        configs, rest = _split_configs(args[1:])  # what stands before a file is overridden by it
        return [*source, *configs, "--data.format", "frames", "--data.root", args[0], *rest]
    return args


def _split_configs(args: list[str]) -> tuple[list[str], list[str]]:
    configs, rest = [], []
    waiting = iter(args)
    for arg in waiting:
        if arg in ("--config", "-c"):
            configs += [arg, *itertools.islice(waiting, 1)]
        else:
            (configs if arg.startswith("--config=") else rest).append(arg)
    return configs, rest


def _names_config(args: list[str]) -> bool:
    return any(a in ("--config", "-c") or a.startswith("--config=") for a in args)


def _newest() -> list[str]:
    run = newest_run(LOGS)
    checkpoint = best_checkpoint(run)
    print(f"lvad: run {run}, checkpoint {checkpoint.name}")
    return ["--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint)]


def _newest_or_start() -> list[str]:
    try:
        return _newest()
    except FileNotFoundError:
        print("lvad: no run under logs/ yet: describing with the embedded model as it ships")
        return ["--config", "configs/rloo.yaml"]


def _find_configs(args: list[str]) -> list[str]:
    """Replace ``--config NAME`` by the shipped file of that name where there is none here."""
    found = list(args)
    for i, arg in enumerate(args):
        if arg in ("--config", "-c") and i + 1 < len(args):
            found[i + 1] = _checked(args[i + 1])
        elif arg.startswith("--config="):
            found[i] = f"--config={_checked(arg.removeprefix('--config='))}"
    return found


def _checked(name: str) -> str:
    """The path of a configuration that the parser, which has no bounds, can be given."""
    path = resolve_config(name)
    read_yaml(path)
    return str(path)
