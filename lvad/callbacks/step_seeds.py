"""Seeds the random numbers of each training step by its number, whatever happened before it."""

import hashlib
import os
import random
from typing import Any, Final

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

_GIVEN: Final = "PL_GLOBAL_SEED"
"""Environment variable in which ``seed_everything`` leaves its seed, also for the processes of other devices."""


class StepSeeds(Callback):
    """Seeds all generators before every training batch, from the run's seed, the batch's number and the rank.

    So a resumed run draws the random numbers that it would have drawn, on any number of devices, without a checkpoint
    of their states; and neither a validation nor a picture for the record changes what is trained.

    The seed is that of ``seed_everything``, even if a checkpoint holds another one; without it the checkpoint's, or a
    new one.

    Args:
        seed: of the run; None takes the one above.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._kept: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the seed of the checkpoint, for a run without a seed of its own."""
        self._kept = state_dict["seed"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose one seed for all ranks."""
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
    """Derive a seed of 63 bits, practically independent for different runs, steps and ranks."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
