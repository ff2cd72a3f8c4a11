"""The callback that writes the numbers, curves, samples and ledger of a run, for every stage."""

import resource
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image
from torch import Tensor

from lvad.data import ledger
from lvad.data.datamodule import BDDOIADataModule
from lvad.report.answer_picture import draw_answer
from lvad.report.answer_report import label_tables, write_driving_report
from lvad.report.board import add_images, add_samples
from lvad.report.plot_style import pixels
from lvad.report.run_plots import plot_confusion_and_roc, plot_loss, plot_reward
from lvad.report.runs import (
    CURVE,
    LOSSES,
    MODEL,
    REASONS_SCORED,
    SAMPLES,
    TEST,
    command_to_test,
    remove_unstarted_run,
    update_metrics,
    write_atomically,
    write_tables,
)
from lvad.report.samples_file import rows_before, sample_row, write_rows
from lvad.report.scenes_seen import check_label_sets, inherited, seen_before, seen_by
from lvad.sharded_weights import load_weights, whole_weights
from lvad.taxonomy import FILE, dump_taxonomy
from lvad.taxonomy.compatibility import trainer_taxonomy
from lvad.types import AnsweredScene, MatchProbabilities, Table

REWARD_MEAN, REWARD_BEST, LOSS, HELD_OUT = "reward/mean", "reward/best", "train/loss", "val/reward"
_HEADLINE = tuple(f"test/{kind}_{score}" for kind in ("action", "reason") for score in ("macro_f1", "exact_match"))
NUM_PICTURES = 4
"""How many answered scenes TensorBoard shows; the gallery has more."""


@runtime_checkable
class _Exports(Protocol):
    def export(self, folder: Path) -> None: ...


class RunRecorder(Callback):
    """Callback that writes ``metrics.json``, ``samples.jsonl``, pictures and the exported model into the run folder.

    What it takes from a module, where the module has it: ``samples`` (the ``SceneSamples`` of the last validation),
    ``match_probabilities`` (of the last evaluation, drawn as confusion matrix and ROC curve), ``report`` (tables of the
    test), ``answered`` and ``shown`` (what was answered to the test scenes, and the frames of the first of them),
    ``loss_is`` (what its loss is a number of), ``export(folder)`` (writes the result for other tools), ``next_step``
    (what to run next, ``{folder}`` is the exported model). The validation before the first update
    (``num_sanity_val_steps: -1``) gives the ``*_start`` metrics. A ``fast_dev_run`` leaves nothing.

    It keeps the budget ledger too: which scenes this stage saw, and those before it, whose exported models it holds
    (their ``source``; a module with ``built_on`` names the part that counts; a ``rehearsal`` has labelled ``scenes`` of
    its own). It is written before the first step, into the run folder and into every checkpoint, with what both held
    before. A test on any of these scenes, or on one that a judge saw, is refused, as is one of a checkpoint whose
    scenes are not known. A fit that ends before its first step leaves no folder.
    The label set lies beside the ledger, in ``taxonomy.yaml``: a run or a model of another one is refused.

    Args:
        run_dir: the run folder; None takes the logger's.
        export: write the best weights as ``model/`` at the end of a fit.
    """

    def __init__(self, run_dir: str | None = None, export: bool = True) -> None:
        self.run_dir = run_dir
        self.export = export
        self.start: dict[str, float] = {}
        self.history: dict[int, dict[str, float]] = {}
        self.curve: list[tuple[int, float, float]] = []
        self.losses: list[tuple[int, float]] = []
        self.closing = ""  # for the command to print once the progress bar is gone
        self.ledger: ledger.Ledger | None = None  # of the checkpoint until training starts; None where it has none
        self._run_folder = Path()
        self._folder: Path | None = None  # where this process writes
        self._is_resumed = False
        self._has_begun = False
        self._fit_start_s = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed fit must know of the run so far."""
        return {name: getattr(self, name) for name in ("start", "history", "curve", "losses", "ledger")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name in self.state_dict().keys() & state_dict.keys():  # a checkpoint may name anything
            setattr(self, name, state_dict[name])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder, and refuse labels of another label set."""
        # Here, where every rank comes by: log_dir is a broadcast, and waits for ever when rank zero asks alone.
        folder = self.run_dir or trainer.log_dir or trainer.default_root_dir
        is_dev_run = getattr(trainer, "fast_dev_run", False)  # set where type checkers do not look
        self._run_folder = Path(folder)
        self._folder = self._run_folder if trainer.is_global_zero and not is_dev_run else None
        check_label_sets(trainer, pl_module, self._run_folder)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the fit."""
        self._fit_start_s = time.perf_counter()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note that the fit resumes from a checkpoint, which has the scores of its start already."""
        self._is_resumed = trainer.state.fn == "fit"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the ledger, and drop sample rows of lost steps or of an earlier fit in the folder."""
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, BDDOIADataModule):
            seen = [seen_before(trainer, self._run_folder, self.ledger), seen_by(data, pl_module)]
            self.ledger = ledger.merge_ledgers(seen)
        if self._folder is not None:
            write_atomically(self._folder / ledger.LEDGER, ledger.dump_ledger(self.ledger or {}))
            write_atomically(self._folder / FILE, dump_taxonomy(trainer_taxonomy(trainer)))
            write_rows(self._folder / SAMPLES, rows_before(self._folder / SAMPLES, trainer.global_step + 1))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note that training has begun, so that the folder is kept after an error."""
        self._has_begun = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the run folder if the fit failed before its first step."""
        if trainer.state.fn == "fit" and trainer.is_global_zero and not self._has_begun:
            # Not log_dir, a broadcast: the other ranks may not come by here.
            folder = self.run_dir or getattr(trainer.logger, "log_dir", None) or trainer.default_root_dir
            for logger in trainer.loggers:
                logger.finalize("failed")  # closes its file
            remove_unstarted_run(Path(folder))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store the loss and the training reward for the curves."""
        metrics = trainer.callback_metrics
        if LOSS in metrics:
            self.losses.append((trainer.global_step, float(metrics[LOSS])))
        if REWARD_MEAN in metrics:
            self.curve.append((trainer.global_step, float(metrics[REWARD_MEAN]), float(metrics[REWARD_BEST])))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the held-out scores, and write the completions of the fixed scenes."""
        if trainer.state.fn != "fit" or (trainer.sanity_checking and self._is_resumed):
            return  # a resumed run knows its start already
        scores = _group(trainer, "val/")
        step = trainer.global_step
        if trainer.sanity_checking:
            self.start = {f"{name}_start": value for name, value in scores.items()}
            if trainer.logger is not None:
                trainer.logger.log_metrics(scores, step)
        self.history[step] = scores
        samples = getattr(pl_module, "samples", [])
        if samples and self._folder is not None:
            path = self._folder / SAMPLES
            write_rows(path, [*rows_before(path, step), *(sample_row(scene, step) for scene in samples)])
            add_samples(trainer, samples, step)
        self._draw_match_probabilities(trainer, pl_module, "val")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write numbers, curves and model of the best checkpoint, and the closing line that says where they are."""
        best_step = _load_best(trainer, pl_module)
        with whole_weights(pl_module):
            if self._folder is not None:
                self._write_end(trainer, pl_module, best_step, self._folder)

    def _write_end(self, trainer: Trainer, pl_module: LightningModule, best_step: int, folder: Path) -> None:
        elapsed_s = time.perf_counter() - self._fit_start_s
        scored = best_step if best_step in self.history else max(self.history, default=0)
        metrics = {**self.history.get(scored, {}), **self.start, **_costs(elapsed_s)}
        update_metrics(folder, metrics)
        self._draw_curves(trainer, pl_module, folder)
        if self.export and isinstance(pl_module, _Exports):
            # The ledger comes before there is a model.
            write_atomically(folder / MODEL / ledger.LEDGER, ledger.dump_ledger(self.ledger or {}))
            write_atomically(folder / MODEL / FILE, dump_taxonomy(trainer_taxonomy(trainer)))
            pl_module.export(folder / MODEL)
        next_step = getattr(pl_module, "next_step", TEST).format(folder=folder / MODEL)
        next_step = command_to_test(folder) if next_step == TEST else next_step
        self.closing = closing_line(folder, metrics, next_step, _monitored(trainer))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse test scenes that an earlier stage has seen, and a checkpoint whose seen scenes are unknown."""
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, BDDOIADataModule):
            seen = [seen_before(trainer, self._run_folder, self.ledger), *inherited(pl_module)]
            ledger.check_leakage(ledger.merge_ledgers(seen), [scene.id for scene in data.scenes["test"]])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the test scores to the run's numbers, its tables and its pictures."""
        if self._folder is None:
            return
        rank_zero_info(f"test scores added to {update_metrics(self._folder, _group(trainer, 'test/'))}")
        answered: list[AnsweredScene] = getattr(pl_module, "answered", [])
        tables: list[Table] = [*getattr(pl_module, "report", [])]
        if answered:
            self._report_answers(trainer, answered, getattr(pl_module, "shown", []))
            tables += label_tables(answered, REASONS_SCORED in trainer.callback_metrics, trainer_taxonomy(trainer))
        if tables:
            rank_zero_info(f"tables: {write_tables(self._folder, tables)}")
        self._draw_match_probabilities(trainer, pl_module, "test")

    def _report_answers(self, trainer: Trainer, answered: list[AnsweredScene], shown: list[Tensor]) -> None:
        assert self._folder is not None
        taxonomy = trainer_taxonomy(trainer)
        headline = {name: value for name, value in _group(trainer, "test/").items() if name in _HEADLINE}
        write_atomically(self._folder / FILE, dump_taxonomy(taxonomy))  # also where no fit was
        files = write_driving_report(self._folder, answered, shown, headline, taxonomy)
        pictures = {path.stem: Image.open(path).convert("RGB") for path in files if path.suffix == ".png"}
        scenes = zip(answered[:NUM_PICTURES], shown, strict=False)
        pictures |= {f"answers/{i}": draw_answer(scene, frames, taxonomy) for i, (scene, frames) in enumerate(scenes)}
        add_images(trainer, self._folder, {f"test/{name}": np.asarray(picture) for name, picture in pictures.items()})

    def _draw_curves(self, trainer: Trainer, pl_module: LightningModule, folder: Path) -> None:
        if self.curve:
            held_out = {step: scores[HELD_OUT] for step, scores in self.history.items() if HELD_OUT in scores}
            plot_reward(*zip(*self.curve, strict=True), path=folder / CURVE, held_out=held_out)
        if self.losses:
            what = getattr(pl_module, "loss_is", "loss")
            path = plot_loss(self.losses, self.history, _monitored(trainer), folder / LOSSES, what)
            add_images(trainer, folder, {"curves/loss": np.asarray(Image.open(path).convert("RGB"))})

    def _draw_match_probabilities(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        found: MatchProbabilities | None = getattr(module, "match_probabilities", None)
        if found is None or self._folder is None:
            return
        figure = plot_confusion_and_roc(found, f"{stage}, {len(found.is_match)} image-text pairs")
        self._folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(self._folder / f"{stage}_confusion_roc.png", dpi=120)
        add_images(trainer, self._folder, {f"{stage}/confusion_roc": pixels(figure)})


def closing_line(folder: Path, metrics: dict[str, float], next_step: str, monitored: str | None = None) -> str:
    """Write in one line where the run lies, its main score before and after, and the next command."""
    score = HELD_OUT if HELD_OUT in metrics or monitored is None else monitored
    name = "held-out reward" if score == HELD_OUT else score
    values = [metrics[key] for key in (f"{score}_start", score) if metrics.get(key) is not None]
    said = f"; {name} {' -> '.join(f'{value:.3f}' for value in values)}" if values else ""
    return f"run: {folder}{said}; next: {next_step}"


def _group(trainer: Trainer, prefix: str) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}


def _monitored(trainer: Trainer) -> str | None:
    names = [getattr(callback, "monitor", None) for callback in trainer.checkpoint_callbacks]
    return next((name for name in names if name), None)


def _load_best(trainer: Trainer, module: LightningModule) -> int:
    """Load the best checkpoint's weights into the module; return its step, or that of the last weights without one."""
    monitored = [c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None) is not None]
    best = getattr(monitored[0], "best_model_path", "") if monitored else ""
    if not best or not Path(best).is_file():
        if best:
            rank_zero_warn(f"{best} is no plain file (a sharded checkpoint?): the last weights are exported")
        return trainer.global_step
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    if unexpected := load_weights(module, checkpoint["state_dict"]):
        raise RuntimeError(f"{best} holds weights that the module lacks: {unexpected[:5]}")
    return checkpoint["global_step"]


def _costs(elapsed_s: float) -> dict[str, float]:
    costs = {
        "time/fit_s": elapsed_s,
        "memory/peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # KiB on Linux
    }
    if torch.cuda.is_available():
        costs["memory/peak_cuda_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return costs
