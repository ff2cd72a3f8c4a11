"""Which scenes train, validate and test, and which of them keep their labels: ``data.split`` of a configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lvad.data.budget import Budget, Rest, hidden, unused
from lvad.data.counts import ALL_SCENES, SceneCounts
from lvad.data.pseudo_labels import with_pseudo_labels
from lvad.data.records import SPLITS, Reading
from lvad.data.splits import Subset, arrange, take
from lvad.taxonomy import Taxonomy
from lvad.types import Scene


class SplitScenes(NamedTuple):
    """The scenes of a source, split."""

    used: dict[str, list[Scene]]
    """Of ``train``, ``val`` and ``test``."""
    pool: list[Scene]
    """Training scenes whose labels are not used, without them."""


@dataclass(frozen=True)
class Split:
    """The choice of scenes, and the labels that training may use.

    Args:
        subset: every scene, those whose recording no other split tests or validates on ("apart"), or the paper's
            one-action-one-reason scenes, split anew 8:2 ("single"), 8:2 with every recording whole in one split
            ("grouped"), or 1,400 / 200 / rest ("reward").
        num_scenes: how many scenes of each split to use.
        budget: n, how many training scenes keep their labels; ``data.seed`` alone chooses them, so that every stage of
            a seed has the same ones. The source's validation split is not used. None is no budget.
        budget_val: how many of the budget's scenes validate instead.
        rest: the training scenes beyond the budget: left out, or kept without labels.
        unlabelled: take labels, captions and facts away from the training scenes: nothing can learn from them.
        pseudo_labels: a ``pseudo_labels.json`` beside the ledger of the model that made it: training scenes beyond the
            budget or ``num_scenes.train`` have its labels; those that it does not name are left out.

    Raises:
        ValueError: for a value out of range, or two choices of the same training scenes.
    """

    subset: Subset = "all"
    num_scenes: SceneCounts = ALL_SCENES
    budget: int | None = None
    budget_val: int = 0
    rest: Rest = "drop"
    unlabelled: bool = False
    pseudo_labels: str | None = None

    def __post_init__(self) -> None:
        num_train = self.num_scenes.train
        if self.label_budget and (isinstance(num_train, int) or num_train not in (None, 1.0)):
            raise ValueError(_two_choices("num_scenes.train"))
        if self.pseudo_labels and self.unlabelled:
            raise ValueError("pseudo_labels gives labels to training scenes: set unlabelled to false")

    @property
    def label_budget(self) -> Budget | None:
        """The budget of labels; None without one."""
        return None if self.budget is None else Budget(self.budget, self.budget_val, self.rest)

    @property
    def label_file(self) -> Path | None:
        """The file of pseudo-labels; None without one."""
        return Path(self.pseudo_labels).expanduser() if self.pseudo_labels else None

    def check_streamed(self) -> None:
        """Refuse choices of training scenes where these are streamed footage.

        Raises:
            ValueError: naming the choice to leave out.
        """
        if self.num_scenes.train is not None:
            raise ValueError(streamed_whole("num_scenes.train"))
        if self.budget is not None:
            raise ValueError(_two_choices("footage"))
        if self.pseudo_labels:
            raise ValueError("pseudo_labels gives labels to training scenes: set footage to null")

    def divide(self, reading: Reading, counts: SceneCounts, seed: int, taxonomy: Taxonomy) -> SplitScenes:
        """Split the scenes of a source, and hide the labels that are not to be used.

        Args:
            reading: what was read.
            counts: how many scenes of each split to use.
            seed: of every choice.
            taxonomy: the label set.

        Raises:
            DataError: for more scenes or labels than there are, an empty subset, or pseudo-labels of other scenes.
        """
        whole = arrange(reading, self.subset, seed)
        scenes = {split: take(whole[split], getattr(counts, split), seed, f"num_scenes.{split}") for split in SPLITS}
        if budget := self.label_budget:
            scenes = budget.spend(scenes, seed)
        if self.unlabelled:
            scenes["train"] = [hidden(scene) for scene in scenes["train"]]
        pool = unused(whole["train"], scenes)
        if self.label_file:
            scenes["train"] = with_pseudo_labels(scenes["train"], pool, self.label_file, taxonomy)
        return SplitScenes(scenes, pool)


def streamed_whole(what: str) -> str:
    """Why a choice of training scenes cannot be had with footage."""
    return f"{what} cannot be set with footage, which is streamed whole; shorten a run by max_steps"


def _two_choices(what: str) -> str:
    return f"budget chooses among all training scenes and cannot be set with {what}: set that to null"
