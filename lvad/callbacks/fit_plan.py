"""Prints the plan of a fit before its first step: what it trains, on which labels, in how much memory."""

import inspect
from collections.abc import Iterable
from typing import Any, Final

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lvad.answers.target_texts import MOST_COUNTED, label_texts, mean_tokens
from lvad.callbacks.worst_batch import TrialStep, longest_completion, try_step, worst_batch
from lvad.data.datamodule import BDDOIADataModule
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import Scene

Rows = list[tuple[str, str]]
MB: Final = 1e6


class FitPlan(Callback):
    """Prints what is trained and what is frozen, how many labels and tokens it learns from, and the memory it needs.

    It also tries a training step on the worst batch, so that one that does not fit fails in the first seconds.

    With strategies that shard the weights (FSDP2) no step is tried: their modules run only in their own training step.

    Args:
        preflight: try the worst batch: the longest prompts, every completion as long as it may be.
    """

    def __init__(self, preflight: bool = True) -> None:
        self.preflight = preflight
        self.rows: Rows = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Try the worst batch, and print the plan.

        Raises:
            DoesNotFit: if memory runs out.
            DataError: under DeepSpeed, whose engine rounds the judges to the policy's type and accumulates by itself.
        """
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise DataError(
                "stages do not run under DeepSpeed, which rounds frozen judges and the KL's weight to 16 bits; take "
                "configs/strategy/ddp.yaml or fsdp.yaml"
            )
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, BDDOIADataModule):
            return  # a loader that is not lvad's: its batches are not known
        tried, is_shared = None, not _can_be_tried(trainer)
        can_try = self.preflight and not is_shared and pl_module.automatic_optimization  # else it has no loss
        batch = worst_batch(data, getattr(pl_module, "policy", None)) if can_try else None
        if batch is not None:
            tried = try_step(trainer, pl_module, batch, later_step_bytes(trainer, pl_module))
        self.rows = [
            *parameter_rows(pl_module),
            *label_rows(pl_module, data.scenes["train"], data.taxonomy),
            *step_rows(pl_module, data.batch_size, trainer.accumulate_grad_batches, trainer.world_size, tried),
            *memory_rows(pl_module, trainer.optimizers, tried, " before they are sharded" * is_shared),
        ]
        width = max(len(name) for name, _ in self.rows)
        rank_zero_info("\n".join(["plan", *(f"  {name:{width}}  {value}" for name, value in self.rows)]))


def parameter_rows(module: nn.Module) -> Rows:
    """Count the parameters of each part, trained and frozen."""
    rows = []
    for name, part in module.named_children():
        parameters = list(part.parameters())
        total, trained = _count(parameters), _count(p for p in parameters if p.requires_grad)
        if total:
            rows.append(
                (f"parameters, {name}", f"{total:,}, of which {trained:,} trained" if trained else f"{total:,}, frozen")
            )
    return rows


def label_rows(module: Any, scenes: list[Scene], taxonomy: Taxonomy = BDD_OIA) -> Rows:
    """Count the scenes whose labels are learnt from, and the tokens of labels that are learnt as text."""
    pseudo = [scene for scene in scenes if scene.is_pseudo]
    labelled = [scene for scene in scenes if (scene.actions is not None or scene.captions) and not scene.is_pseudo]
    row = f"{len(labelled):,} of {len(scenes):,} training scenes" if scenes else "none, training scenes are streamed"
    texts = label_texts(getattr(module, "target", None), labelled, taxonomy)
    if texts:
        about = "about " if len(texts) > MOST_COUNTED else ""
        row += f", {about}{round(mean_tokens(module.policy, texts) * len(texts)):,} tokens"
    if pseudo:
        row += f"; {len(pseudo):,} pseudo-labelled"
    if rehearsal := getattr(module, "rehearsal", None):
        row += f"; {len(rehearsal.scenes):,} rehearsed"
    return [("labels", row)]


def step_rows(module: Any, batch_size: int, accumulated: int, num_devices: int, tried: TrialStep | None) -> Rows:
    """Count the scenes of one optimizer step and, once a batch was tried, its tokens."""
    scenes = batch_size * accumulated * num_devices
    what = f"{scenes} scenes ({batch_size} x {accumulated} accumulated x {num_devices} devices)"
    completions = getattr(module, "num_completions", None)
    if completions is not None:
        longest = longest_completion(module.policy)
        what += f", {completions} completions" + (f" of at most {longest} tokens each" if longest else "")
    rows = [("one step", what)]
    if tried is not None and tried.prompt_tokens:
        times = accumulated * num_devices
        prompts, targets = tried.prompt_tokens * times, tried.completion_tokens * times
        tokens = f"at most {prompts + targets:,}: {prompts:,} of prompts, {targets:,} learnt from"
        rows.append(("tokens of a step", tokens))
    return rows


def later_step_bytes(trainer: Trainer, module: nn.Module) -> int:
    """Return the bytes that a later step needs beyond the first: optimizer states and accumulated gradients."""
    gradients = _trained_bytes(module) if trainer.accumulate_grad_batches > 1 else 0
    return gradients + sum(optimizer_bytes(optimizer) or 0 for optimizer in trainer.optimizers)


def memory_rows(
    module: nn.Module, optimizers: list[torch.optim.Optimizer], tried: TrialStep | None, remark: str = ""
) -> Rows:
    """Add up the memory on one device without sharding."""
    copy = getattr(getattr(module, "policy", None), "kept_copy", None)
    held = [module] if copy is None else [module, copy]
    weights = sum(_bytes([*part.parameters(), *part.buffers()]) for part in held)
    gradients = _trained_bytes(module)
    states = [optimizer_bytes(optimizer) for optimizer in optimizers]
    known = [size for size in states if size is not None]
    parts = [f"weights {weights / MB:,.1f} MB", f"gradients {gradients / MB:,.1f} MB"]
    parts.append(f"optimizer {sum(known) / MB:,.1f} MB" if len(known) == len(states) else "optimizer not known")
    if tried is not None:
        parts.append(f"activations of the worst batch {tried.saved_bytes / MB:,.1f} MB")
    rows = [("memory", ", ".join(parts) + remark)]
    if tried is not None:
        peak = "" if tried.peak_bytes is None else f", at most {tried.peak_bytes / MB:,.0f} MB allocated"
        rows.append(("worst batch", f"tried in {tried.time_s:.1f} s{peak}"))
    return rows


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int | None:
    """Return the bytes that a PyTorch optimizer will keep: those per element of a small probe, times all elements.

    None for optimizers that such a probe cannot tell of: those of other libraries, which may treat small weights
    unlike large ones, and those that need a closure or sparse gradients.
    """
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim"):
        return None
    probe = nn.Parameter(torch.zeros(8, 8))
    probe.grad = torch.ones(8, 8)
    named = inspect.signature(kind).parameters
    options = {name: value for name, value in optimizer.defaults.items() if name in named}
    try:
        trial = kind([probe], **options)
        trial.step()
    except (TypeError, ValueError, RuntimeError):  # a closure, sparse gradients
        return None
    kept = sum(v.numel() for v in trial.state[probe].values() if isinstance(v, torch.Tensor) and v.shape == probe.shape)
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    return _bytes(weights) * kept // probe.numel()


def _trained_bytes(module: nn.Module) -> int:
    return _bytes(p for p in module.parameters() if p.requires_grad)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _can_be_tried(trainer: Trainer) -> bool:
    strategy = trainer.strategy
    return isinstance(strategy, SingleDeviceStrategy | DDPStrategy)


def _count(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)
