"""Random numbers that depend on the number of the training step and not on what happened before it."""

import hashlib
import os
import random
from typing import Any, Final

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

_GIVEN: Final = "PL_GLOBAL_SEED"
"""Where ``seed_everything`` leaves its seed, for the processes of other devices too."""


class StepSeeds(Callback):
    """Seeds all generators before every training batch, from the run's seed, the batch's number and the rank.

    So a run that was killed goes on with the random numbers that it would have had, on any number of devices, without a
    checkpoint of their states; and neither a validation nor a picture for the record changes what is trained.

    The seed is that of ``seed_everything``, also where a checkpoint holds another one; without it that of the
    checkpoint, or a new one.

    Args:
        seed: of the run, instead.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._kept: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self._kept = state_dict["seed"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree on a seed."""
        if self.seed is None:
            given = os.environ.get(_GIVEN)
            own = torch.initial_seed() if self._kept is None else self._kept
            self.seed = trainer.strategy.broadcast(own if given is None else int(given))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed Python, NumPy and PyTorch."""
        assert self.seed is not None
        seed = step_seed(self.seed, trainer.fit_loop.epoch_loop.total_batch_idx, trainer.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)


def step_seed(seed: int, step: int, rank: int) -> int:
    """63 bits, as good as independent for different runs, steps and ranks."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
