"""The progress counters of Lightning's loops, set to the last complete batch of a checkpoint.

Lightning 2.6 understands some of the moments at which a checkpoint can be written, and not those that matter here: a
stop by ``max_steps`` or ``max_time`` within an epoch counts the epoch as done, a validation that was broken off is
forgotten, and what a checkpoint counts is batches, of which there are others with another batch size. So its counters
are set anew from what they say of the last whole batch.
"""

from typing import Any

from lightning import Trainer

from lvad.data.loaders import RESTART_REMEDY, ResumableLoader
from lvad.errors import DataError

_EPOCHS, _BATCHES, _VALIDATION = "epoch_progress", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"


def rewrite_progress(loops: dict[str, Any], is_validation_due: bool) -> None:
    """Rewrite the counters of a checkpoint's fit loop, in place: its last whole batch is done, the next not begun.

    Args:
        loops: what the fit loop saved, at whatever moment.
        is_validation_due: the validation after that batch is due, again if it was begun.

    Raises:
        DataError: if these are no counters of a fit.
    """
    try:
        done, batches = loops[_EPOCHS]["total"]["started"] - 1, loops[_BATCHES]
        num_total, num_now = batches["total"]["processed"], batches["current"]["processed"]
        is_complete = bool(batches["is_last_batch"])  # of its epoch
        begins_epoch = is_complete and not is_validation_due
        epochs = _progress(done + 1, done + 1) if begins_epoch else _progress(done + 1, done)
        loops[_EPOCHS] |= {"total": epochs, "current": dict(epochs)}
        now = 0 if begins_epoch else num_now
        batches |= {"total": _progress(num_total, num_total), "current": _progress(now, now)}
        batches["is_last_batch"] = is_complete and is_validation_due
        validation = (
            _progress(1, 0) if is_validation_due else _progress(0, 0)
        )  # in the midst of its first batch, or none
        loops[_VALIDATION] |= {"total": validation, "current": _progress(0, 0), "is_last_batch": False}
        if is_complete:  # also one that limit_train_batches made shorter than the scenes
            for loader in loops["state_dict"].get("combined_loader", []):
                loader["seen"] = 0
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the checkpoint does not say where its fit stopped ({error!r:.60}); {RESTART_REMEDY}"
        ) from error


def restore_batch_progress(trainer: Trainer) -> None:
    """Count the batches of the present epoch so that with those after the last scene seen they are all.

    To be called at the start of training: with another batch size or number of devices they are others than the
    checkpoint's.
    """
    loader, loop = trainer.train_dataloader, trainer.fit_loop.epoch_loop
    now = loop.batch_progress.current
    if isinstance(loader, ResumableLoader) and trainer.num_training_batches != float("inf"):
        whole = int(trainer.num_training_batches)
        if loop.batch_progress.is_last_batch:
            done = whole
        else:
            done = min(max(0, len(loader) - loader.num_batches_left()), whole - 1)
        now.ready = now.started = now.processed = now.completed = done  # type: ignore[attr-defined]
    loop.val_loop.batch_progress.total.reset_on_restart()
    # A validation is logged at the step before; every batch of one optimizer's steps counts, and no other.
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step - bool(
        loop.val_loop.restarted_mid_evaluation
    )


def _progress(begun: int, ended: int) -> dict[str, int]:
    return {"ready": begun, "started": begun, "processed": ended, "completed": ended}
