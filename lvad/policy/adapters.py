"""Low-rank adapters: what they adapt, how a model is written with them and without, and the reference without them.

PEFT's models and layers are told apart without importing it: that takes seconds, and no plain model needs it.
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
    """An instance of a class that was never loaded cannot exist."""
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
    """Put adapters on a model; all else is frozen.

    Raises:
        ValueError: for adapters on the embedding or the head, whose gradients go around their layers.
    """
    from peft import LoraConfig, get_peft_model  # takes seconds to import, and no plain model needs it

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets)
    whole = get_peft_model(model, config)
    for name, part in (("embedding", model.get_input_embeddings()), ("head", model.get_output_embeddings())):
        if is_tuner_layer(part):
            raise ValueError(f"lora.targets {lora.targets!r} matches the {name}; adapt linear layers of the text model")
    return whole


def has_adapters(*parts: nn.Module) -> bool:
    """Whether an adapter lies in these parts, switched on or off."""
    return any(is_tuner_layer(module) for part in parts for module in part.modules())


def active_weights(*parts: nn.Module) -> list[Tensor]:
    """The weights that the output of these parts depends on: all but those of adapters that are switched off."""
    off: set[int] = set()
    for layer in (module for part in parts for module in part.modules()):
        if is_tuner_layer(layer) and layer.disable_adapters:
            own = {id(weight) for weight in layer.get_base_layer().parameters()}
            off |= {id(weight) for weight in cast(nn.Module, layer).parameters()} - own
    return [weight for part in parts for weight in part.parameters() if id(weight) not in off]


def float_copy(model: Any) -> Any:
    """A copy on the CPU in float32, adapters in place, that says what the model says; also of a base in 4 bits."""
    if is_peft_model(model) and is_in_four_bits(model):
        return dequantized(model)
    return copy.deepcopy(model).float().cpu()


def merged(model: Any, dtype: str = "float32") -> Any:
    """A copy on the CPU with the adapters merged in float32, a plain transformers model."""
    whole: Any = float_copy(model)
    whole = whole.merge_and_unload() if is_peft_model(whole) else whole
    return whole.to(getattr(torch, dtype))


def start_of(model: Any) -> Any:
    """A copy on the CPU of a model as it was before its adapters, a plain transformers model."""
    plain: Any = float_copy(model) if is_in_four_bits(model) else copy.deepcopy(model).cpu()
    return plain.unload() if is_peft_model(plain) else plain


def save_start(model: Any, folder: Path) -> None:
    """Write a model as it was before its adapters, as plain transformers has it."""
    start_of(model).save_pretrained(folder)


def save_adapter(model: "PeftModel", folder: Path, base: str = "..") -> None:
    """Write the adapters alone, for ``PeftModel.from_pretrained`` on the model that they were trained on.

    Args:
        model: with its adapters.
        folder: where to.
        base: name or folder of that model; by default the folder above.
    """
    (config,) = model.peft_config.values()
    before, config.base_model_name_or_path = config.base_model_name_or_path, base
    try:
        model.save_pretrained(str(folder), save_embedding_layers=False)  # looks for ".." otherwise
    finally:
        config.base_model_name_or_path = before


class HasReference(nn.Module):
    """A policy that remembers its start, or a later state of itself.

    With adapters the start costs nothing, they are switched off; anything else is a second copy of the policy.
    """

    model: Any

    def __init__(self) -> None:
        super().__init__()
        self._reference: list[Self] = []  # in a list, so that it is no submodule and enters no checkpoint
        self._is_refreshed = False

    @property
    def kept_copy(self) -> Self | None:
        """The second model that is the reference; None where adapters are switched off for it, or none is kept."""
        return self._reference[0] if self._reference else None

    def shared_with_reference(self) -> list[object]:
        """What a copy does not need of its own."""
        return []

    @contextmanager
    def as_reference(self) -> Iterator[Self]:
        """The reference, for the time of a block: the copy that was kept, or the start with adapters switched off.

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
        """Remember the present weights as the reference; free where adapters are on (they are switched off)."""
        if not is_peft_model(self.model):
            self._keep_copy()

    def refresh_reference(self) -> None:
        """Make a copy of the present weights, adapters included, the reference."""
        self._keep_copy()
        self._is_refreshed = True

    def reference_state(self) -> dict[str, Tensor] | None:
        """The trained weights as they were at the last refresh; None while the reference is the start."""
        if not self._is_refreshed:
            return None
        reference = dict(self._reference[0].named_parameters())
        return {name: reference[name].detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_reference_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``reference_state`` gave.

        Raises:
            ValueError: if it is that of another model.
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
