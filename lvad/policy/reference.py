"""The policy that a policy is held to."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from lvad.policy.adapters import is_peft_model


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
