"""Low-rank adapters: adding them, saving a model with or without them, and the reference that they make possible.

PEFT's classes are recognised without importing it, because the import takes seconds and a plain model needs none.
"""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeGuard, cast

import torch
from torch import Tensor, nn

from lvad.policy.four_bits import dequantized, is_in_four_bits

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import Linear as LoraLinear
    from peft.tuners.tuners_utils import BaseTunerLayer


def is_peft_model(model: Any) -> "TypeGuard[PeftModel]":
    """Whether a model carries adapters."""
    return _is_a(model, "peft", "PeftModel")


def is_lora_layer(layer: Any) -> "TypeGuard[LoraLinear]":
    """Whether a layer is a linear one with low-rank adapters."""
    return _is_a(layer, "peft.tuners.lora", "Linear")


def is_tuner_layer(layer: Any) -> "TypeGuard[BaseTunerLayer]":
    """Whether a layer has adapters of any kind."""
    return _is_a(layer, "peft.tuners.tuners_utils", "BaseTunerLayer")


def _is_a(value: Any, module: str, name: str) -> bool:
    """Whether a value is an instance of a class; false if the module was never imported, since none can exist then."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the linear layers of the text model (Hu et al. 2021, arXiv:2106.09685).

    Args:
        rank: inner dimension of an update.
        alpha: the update is scaled by alpha / rank.
        targets: regular expression over the full names of the adapted modules.
    """

    rank: int = 16
    alpha: int = 32
    targets: str = r".*\.(text_model|language_model)\.layers\..*\.(q|k|v|o|gate|up|down)_proj"


def adapted(model: Any, lora: Lora) -> "PeftModel":
    """Put adapters on a model, in place, and freeze all other weights.

    Raises:
        ValueError: for adapters on the embedding or the head: the engine uses their weights without calling the layers.
    """
    from peft import LoraConfig, get_peft_model  # takes seconds to import, and no plain model needs it

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets)
    whole = get_peft_model(model, config)
    for name, part in (("embedding", model.get_input_embeddings()), ("head", model.get_output_embeddings())):
        if is_tuner_layer(part):
            raise ValueError(f"lora.targets {lora.targets!r} matches the {name}; adapt linear layers of the text model")
    return whole


def has_adapters(*parts: nn.Module) -> bool:
    """Whether there are adapters in these modules, switched on or off."""
    return any(is_tuner_layer(module) for part in parts for module in part.modules())


def active_weights(*parts: nn.Module) -> list[Tensor]:
    """The weights that the outputs of these modules depend on: all but those of adapters that are switched off."""
    off: set[int] = set()
    for layer in (module for part in parts for module in part.modules()):
        if is_tuner_layer(layer) and layer.disable_adapters:
            own = {id(weight) for weight in layer.get_base_layer().parameters()}
            off |= {id(weight) for weight in cast(nn.Module, layer).parameters()} - own
    return [weight for part in parts for weight in part.parameters() if id(weight) not in off]


def float_copy(model: Any) -> Any:
    """Copy a model to the CPU in float32, adapters included; a 4-bit base is dequantised."""
    if is_peft_model(model) and is_in_four_bits(model):
        return dequantized(model)
    return copy.deepcopy(model).float().cpu()


def merged(model: Any, dtype: str = "float32") -> Any:
    """Copy a model to the CPU as a plain transformers model, with the adapters merged in float32."""
    whole: Any = float_copy(model)
    whole = whole.merge_and_unload() if is_peft_model(whole) else whole
    return whole.to(getattr(torch, dtype))


def start_of(model: Any) -> Any:
    """Copy a model to the CPU as a plain transformers model, without its adapters."""
    plain: Any = float_copy(model) if is_in_four_bits(model) else copy.deepcopy(model).cpu()
    return plain.unload() if is_peft_model(plain) else plain


def save_start(model: Any, folder: Path) -> None:
    """Save a model without its adapters, as a plain transformers model."""
    start_of(model).save_pretrained(folder)


def save_adapter(model: "PeftModel", folder: Path, base: str = "..") -> None:
    """Save only the adapters, for ``PeftModel.from_pretrained`` on the model that they were trained on.

    Args:
        model: with its adapters.
        folder: where they are saved.
        base: name or folder of that model; by default the folder above.
    """
    (config,) = model.peft_config.values()
    before, config.base_model_name_or_path = config.base_model_name_or_path, base
    try:
        model.save_pretrained(str(folder), save_embedding_layers=False)  # otherwise it looks ".." up on the hub
    finally:
        config.base_model_name_or_path = before


class HasReference(nn.Module):
    """A policy with a reference: its weights at the start, or at a later refresh.

    With adapters the start needs no memory: it is the model with its adapters switched off. Any other reference is a
    second copy of the policy.
    """

    model: Any

    def __init__(self) -> None:
        super().__init__()
        self._reference: list[Self] = []  # in a list, so that it is no submodule and is not saved in checkpoints
        self._is_refreshed = False

    @property
    def kept_copy(self) -> Self | None:
        """The second model that is the reference; None if adapters are switched off instead, or none is kept."""
        return self._reference[0] if self._reference else None

    def shared_with_reference(self) -> list[object]:
        """Objects that the copy and the policy share."""
        return []

    @contextmanager
    def as_reference(self) -> Iterator[Self]:
        """Yield the reference: the kept copy, or the policy itself, with its adapters switched off inside the block.

        Raises:
            RuntimeError: if there are no adapters and no copy.
        """
        if self._reference:
            yield self._reference[0].to(next(self.parameters()).device)
        elif is_peft_model(self.model):
            with self.model.disable_adapter():
                yield self
        else:
            raise RuntimeError("no reference was kept: call keep_reference() before the first update")

    def keep_reference(self) -> None:
        """Make the present weights the reference; with adapters this needs no copy."""
        if not is_peft_model(self.model):
            self._keep_copy()

    def refresh_reference(self) -> None:
        """Make a copy of the present weights, adapters included, the new reference."""
        self._keep_copy()
        self._is_refreshed = True

    def reference_state(self) -> dict[str, Tensor] | None:
        """The trainable weights at the last refresh; None while the reference is the start."""
        if not self._is_refreshed:
            return None
        reference = dict(self._reference[0].named_parameters())
        return {name: reference[name].detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_reference_state(self, state: dict[str, Tensor]) -> None:
        """Restore a reference from what ``reference_state`` returned.

        Raises:
            ValueError: if it is the state of another model.
        """
        self.refresh_reference()
        parameters = dict(self._reference[0].named_parameters())
        if unknown := sorted(state.keys() - parameters.keys()):
            raise ValueError(f"the checkpoint's reference has weights that the policy lacks: {unknown[:3]}")
        with torch.no_grad():
            for name, weights in state.items():
                parameters[name].copy_(weights)

    def _keep_copy(self) -> None:
        self._reference = []
        shared = {id(part): part for part in self.shared_with_reference()}
        self._reference = [copy.deepcopy(self, shared).requires_grad_(False).eval()]
