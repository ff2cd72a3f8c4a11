"""The ledger of the scenes that a run has seen: in its fit, in earlier stages, and before it was resumed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from torch import nn

from lvad.data import ledger
from lvad.data.datamodule import BDDOIADataModule
from lvad.errors import DataError
from lvad.taxonomy.compatibility import check_folder_taxonomy, trainer_taxonomy


def seen_by(data: BDDOIADataModule, module: LightningModule) -> ledger.Ledger:
    """Collect the scenes that a fit sees, and those that the models it learns from have seen.

    A held-out judge that scores validation scenes chooses the checkpoint, so its labels count; without such scenes it
    teaches nothing.

    Args:
        data: of the fit, set up.
        module: its stage.
    """
    stage = type(module).__name__.removeprefix("FSDP")  # PyTorch's, where weights are sharded
    scorer = None if data.scenes.get("val") else getattr(module, "judge", None)
    rehearsed = getattr(getattr(module, "rehearsal", None), "scenes", [])
    beside = ledger.stage_ledger(f"{stage} rehearsal", {"train": rehearsed})
    if getattr(getattr(module, "describer", None), "is_oracle", False):
        beside |= ledger.stage_ledger(f"{stage} oracle descriptions", {"train": data.scenes.get("train", [])})
    if getattr(module, "fixmatch", None) or getattr(module, "pseudo_labels", None):
        beside |= ledger.stage_ledger(f"{stage} pool", {"train": data.pool})
    before = inherited(getattr(module, "built_on", module), scorer)
    return ledger.merge_ledgers([*before, data.stage_ledger(stage), beside])


def seen_before(trainer: Trainer, folder: Path, kept: Any) -> ledger.Ledger:
    """Read which scenes were seen from the run's folder and a loaded checkpoint.

    Args:
        trainer: tells of the checkpoint.
        folder: of the run.
        kept: the ledger in the checkpoint; None where it keeps none, or none was loaded.

    Raises:
        DataError: for a checkpoint of which nobody knows, or what is no ledger.
    """
    checkpoint = None if trainer.ckpt_path is None else Path(str(trainer.ckpt_path))
    folders = [folder] if checkpoint is None else [folder, checkpoint.resolve().parent.parent]
    found = [ledger.read_ledger(place) for place in folders if (place / ledger.LEDGER).is_file()]
    if kept is not None:
        found.append(ledger.parse_ledger(kept, checkpoint or folder))
    if checkpoint is not None and not found:
        raise DataError.at(checkpoint, "", *ledger.NO_LEDGER)
    return ledger.merge_ledgers(found)


def check_label_sets(trainer: Trainer, module: nn.Module, folder: Path) -> None:
    """Refuse a run, or earlier stages of it, whose label set is not that of the data.

    Args:
        trainer: tells of the data.
        module: the stage.
        folder: of the run.

    Raises:
        DataError: naming the folder and the difference.
    """
    for place in (folder, *_sources(module.modules())):
        check_folder_taxonomy(place, trainer_taxonomy(trainer))


def _sources(parts: Iterable[nn.Module]) -> list[Path]:
    sources = {getattr(part, "source", None) for part in parts}
    return [Path(source) for source in sorted(source for source in sources if isinstance(source, str))]


def inherited(module: nn.Module, without: nn.Module | None = None) -> list[ledger.Ledger]:
    """Read the ledgers of the models that a part of a stage holds.

    Args:
        module: the part.
        without: a part of it that does not count.
    """
    left_out = set() if without is None else set(without.modules())
    return [ledger.read_ledger(source) for source in _sources(p for p in module.modules() if p not in left_out)]
