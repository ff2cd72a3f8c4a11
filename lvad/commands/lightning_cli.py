"""``lvad fit | validate | test | predict``: LightningCLI over the modules and one data module."""

import sys
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lvad.callbacks.fit_plan import FitPlan
from lvad.callbacks.step_seeds import StepSeeds
from lvad.commands.checkpoint_io import AtomicCheckpointIO, check_checkpoint
from lvad.commands.config_precedence import ConfigPrecedence
from lvad.commands.default_arguments import complete_arguments
from lvad.commands.error_messages import innermost_message, report_user_errors
from lvad.commands.jsonargparse_patches import pass_null_to_classes, prefer_int_to_float
from lvad.commands.last_checkpoint import LastCheckpoint
from lvad.commands.library_messages import filter_library_messages
from lvad.commands.renamed_keys import check_arguments
from lvad.commands.run_folder import LAST, default_root_dir, resume_run, runs_folder
from lvad.commands.security import confirm_api_keys, parse_command_line
from lvad.commands.signals import Stopped, StopSignals
from lvad.data.datamodule import BDDOIADataModule
from lvad.errors import DataError
from lvad.report.alarms import Alarms
from lvad.report.board import TensorBoard
from lvad.report.predictions import PredictionWriter
from lvad.report.progress import default_progress_bar
from lvad.report.recorder import RunRecorder
from lvad.report.runs import summary_of_test
from lvad.report.scene_scores import SceneScoresFile
from lvad.report.traceback_file import TracebackFile

CHECKPOINT_DEFAULTS = {
    "checkpoint.filename": "best",
    "checkpoint.auto_insert_metric_name": False,
    "checkpoint.enable_version_counter": False,
}


class StageCLI(LightningCLI):
    """LightningCLI with the modules by class path, the data module, and the callbacks that every run has.

    ``checkpoint`` (ModelCheckpoint), ``plan``, ``recorder``, ``alarms`` and ``predictions`` are configured beside
    ``model`` and ``data``.
    """

    resumed: Path | None = None
    """The run that is resumed in its own folder; None for a new one."""

    def __init__(self, stop: StopSignals, **kwargs: Any) -> None:
        self.stop = stop
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the callbacks that every run has."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(FitPlan, "plan")
        parser.add_lightning_class_args(RunRecorder, "recorder")
        parser.add_lightning_class_args(Alarms, "alarms")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.set_defaults(CHECKPOINT_DEFAULTS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments; a class outside lvad and its libraries is named on the terminal before it is imported.

        Raises:
            ArgumentError: for an option that cannot be understood.
            DataError: for a configuration with a key of an earlier lvad.
        """
        check_arguments(args)
        self.config = parse_command_line(parser, args)

    def instantiate_classes(self) -> None:
        """Build all objects, and turn the errors of constructors into messages for the user.

        Raises:
            DataError: with the constructor's message, or where a key would go to a host that was not agreed to.
        """
        confirm_api_keys(self.config)
        try:
            super().instantiate_classes()
        except (ValueError, OSError, RuntimeError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise DataError(innermost_message(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build Lightning's trainer, with atomic checkpoint files unless the configuration has a plugin for them."""
        if self.subcommand == "fit":
            # Beside the configuration, so that another fit of it has a folder of its own.
            kwargs |= default_root_dir(self.config["fit"], self.resumed)
        trainer = super().instantiate_trainer(**kwargs)
        strategy = trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        given = config.get("callbacks") or []
        has_bar = any(isinstance(part, ProgressBar) for part in (given if isinstance(given, list) else [given]))
        is_wanted = config.get("enable_progress_bar") is not False and not config.get("barebones")
        scored = [SceneScoresFile(part.run_dir) for part in callbacks if isinstance(part, RunRecorder)]
        bars = [default_progress_bar()] if is_wanted and not has_bar else []
        return super()._instantiate_trainer(config, [*callbacks, *scored, *bars])

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is: file and command line win over what a checkpoint remembers.

        Lightning 2.6 lets a checkpoint's hyperparameters override the command line without a word
        (Lightning-AI/pytorch-lightning#21455).
        """

    def before_instantiate_classes(self) -> None:
        """Let a resumed fit and an evaluation write into the folder of the run instead of a new one."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            self.stop.ckpt_path = LAST if runs_folder(config) else None
            if config.ckpt_path == LAST:
                self.resumed = resume_run(config)
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
        """Print the alarms of the fit, and the line that says where the run lies."""
        for alarm in self._get(self.config_init, "alarms").raised:
            print(f"alarm at step {alarm['step']}, {alarm['alarm']}: {alarm['text']}")
        print(self._get(self.config_init, "recorder").closing)

    def after_test(self) -> None:
        """Print the scores over all scenes, and the tables."""
        scores = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        print(summary_of_test(scores, getattr(self.model, "report", [])))

    def after_predict(self) -> None:
        """Fail where files could not be read.

        Raises:
            DataError: if there is any; the other predictions are written.
        """
        reading = self.datamodule.predicted
        if reading is None or not reading.errors:
            return
        if self.trainer.is_global_zero:
            for error in reading.errors:
                print(f"left out: {error}", file=sys.stderr)
        writer = self._get(self.config_init, "predictions")
        raise DataError(
            f"{len(reading.errors)} pictures, videos or rows cannot be used, named above; "
            f"the predictions of the {len(reading.scenes)} other scenes are in {writer.written}"
        )


class SaveConfig(SaveConfigCallback):
    """Callback that saves the configuration when training starts, so that a refused fit leaves none."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the saving to ``on_train_start``; Lightning's own callback saves here."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the configuration into the run folder."""
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show the configuration in TensorBoard too."""
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
        trainer_defaults={"callbacks": [StepSeeds(), ConfigPrecedence(), LastCheckpoint(stop), TracebackFile()]},
        seed_everything_default=0,
        save_config_callback=SaveConfig if command == "fit" else None,
        save_config_kwargs={"overwrite": True},  # where no versioned logger is set, a second run replaces the first
        run=command is not None,
        args=[command, *args] if command else args,
        parser_kwargs={"exit_on_error": False},
    )


@report_user_errors
def run_lightning_command(command: str, args: list[str], stop: StopSignals) -> int:
    """Run one LightningCLI subcommand.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        args: what follows it, completed by ``lvad.commands.default_arguments``.
        stop: the signals that the process receives.

    Returns:
        The exit code.
    """
    filter_library_messages()
    prefer_int_to_float()
    pass_null_to_classes()
    try:
        make_cli(complete_arguments(command, args), command, stop)
    except SIGTERMException:  # by which Lightning's loops end
        raise Stopped(stop.code) from None
    return 0
