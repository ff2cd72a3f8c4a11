"""Run by ``test_signals.py``: ``lvad ARGS`` whose first process receives SIGTERM in its first training step."""

import os
import signal
import sys

from lvad.callbacks.step_seeds import StepSeeds
from lvad.cli import main

whole = StepSeeds.on_train_batch_start


def receives(self, trainer, *args):
    if trainer.global_rank == 0 and not trainer.global_step:
        os.kill(os.getpid(), signal.SIGTERM)
    return whole(self, trainer, *args)


if __name__ == "__main__":
    StepSeeds.on_train_batch_start = receives
    sys.exit(main(sys.argv[1:]))
