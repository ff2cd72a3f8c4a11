"""What a stage asks of its Lightning trainer: the data module, and the progress of the fit."""

from lightning import Trainer

from lvad.data.datamodule import BDDOIADataModule
from lvad.errors import DataError


def data_module_of(trainer: Trainer) -> BDDOIADataModule:
    """Return the data module of a run.

    Raises:
        DataError: if the scenes come from another loader.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, BDDOIADataModule):
        raise DataError("training scenes without labels come from a BDDOIADataModule: give one as the fit's data")
    return data


def fit_progress(trainer: Trainer) -> float:
    """Return the share of a fit's optimizer steps that are done, in [0, 1].

    Raises:
        DataError: for a fit without an end.
    """
    total = trainer.estimated_stepping_batches
    if not 0 < total < float("inf"):
        raise DataError("what depends on the share of a fit's steps needs an end: set trainer.max_steps or max_epochs")
    return min(1.0, trainer.global_step / total)
