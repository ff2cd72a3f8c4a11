"""What a stage asks of the fit that it belongs to: its data module, and how much of it is done."""

from lightning import Trainer

from lvad.data.datamodule import BDDOIADataModule
from lvad.errors import DataError


def data_module_of(trainer: Trainer) -> BDDOIADataModule:
    """The data module of a run.

    Raises:
        DataError: where somebody's own loader gives the scenes.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, BDDOIADataModule):
        raise DataError("training scenes without labels come from a BDDOIADataModule: give one as the fit's data")
    return data


def fit_progress(trainer: Trainer) -> float:
    """The share of a fit's optimizer steps that are done, in [0, 1].

    Raises:
        DataError: for a fit without an end.
    """
    total = trainer.estimated_stepping_batches
    if not 0 < total < float("inf"):
        raise DataError("what depends on the share of a fit's steps needs an end: set trainer.max_steps or max_epochs")
    return min(1.0, trainer.global_step / total)
