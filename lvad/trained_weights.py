"""What a checkpoint holds of a stage: only the trained weights, which are checked when they are loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lvad.errors import DataError


def keep_trained_weights(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Drop frozen weights (reward, vision encoder, base of the adapters) from a Lightning checkpoint, in place.

    Trained weights stay, and so do the buffers of the module itself and of its parts with ``keeps_buffers``: numbers
    that the run has computed. Frozen weights are loaded from the folders that the configuration names, so
    ``strict_loading`` must be off; ``check_trained_weights`` takes its place.
    """
    kept = _kept_names(module)
    checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}


def check_trained_weights(state: Mapping[str, Tensor], module: nn.Module, path: str | Path | None) -> None:
    """Refuse the weights of another model, which would load silently and leave missing weights at their start.

    Args:
        state: what ``keep_trained_weights`` kept.
        module: what it is loaded into.
        path: the checkpoint, for the message.

    Raises:
        DataError: where a trained weight is missing or of another shape, or one is there that is not trained.
    """
    own = module.state_dict()
    wanted = {name: tuple(own[name].shape) for name in _kept_names(module) if name in own}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if lacking := sorted(wanted.keys() - found.keys()):
        problem = f"lacks {len(lacking)} of the {len(wanted)} weights that this configuration trains: {lacking[:3]}"
    elif surplus := sorted(found.keys() - wanted.keys()):
        problem = f"holds {len(surplus)} weights that this configuration does not train: {surplus[:3]}"
    elif other := sorted(name for name in wanted if wanted[name] != found[name]):
        shapes = f"{list(found[other[0]])}, this configuration makes it {list(wanted[other[0]])}"
        problem = f"holds {len(other)} weights of another shape: {other[0]} is {shapes}"
    else:
        return
    remedy = "take the checkpoint and the configuration of one and the same run"
    raise DataError.at(path or "the checkpoint", "", problem, remedy)


def check_loaded_checkpoint(module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another model, when Lightning loads it.

    A strategy that shards weights loads them itself and passes on the rest: then they are read from the file again. A
    folder of shards is not checked.

    Raises:
        DataError: for the weights of another model.
    """
    path = module._trainer.ckpt_path if module._trainer else None
    if "state_dict" not in checkpoint:
        if path is None or not Path(path).is_file():
            return
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    check_trained_weights(checkpoint["state_dict"], module, path)


def _kept_names(module: nn.Module) -> set[str]:
    kept = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name, part in module.named_modules():
        if part is module or getattr(part, "keeps_buffers", False):
            kept |= {f"{name}.{buffer}".lstrip(".") for buffer, _ in part.named_buffers(recurse=False)}
    return kept
