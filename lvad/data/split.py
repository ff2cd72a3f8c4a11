"""The options of a split: ``data.split`` of a configuration. ``lvad.data.split_algorithms`` carries them out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

from lvad.data.pseudo_labels import with_pseudo_labels
from lvad.data.reading import SPLITS, Reading
from lvad.data.split_algorithms import Subset, is_labelled, seeded_subset, split_scenes, stratified_permutation
from lvad.errors import DataError
from lvad.taxonomy import Taxonomy
from lvad.types import Scene

Rest = Literal["drop", "unlabelled"]


@dataclass(frozen=True)
class SceneCounts:
    """How many scenes of each split: a count, a share in (0, 1], or None for all.

    Args:
        train: of the training scenes; a smaller choice lies within every larger one, and each is stratified.
        val: of the validation scenes.
        test: of the test scenes.
    """

    train: int | float | None = None
    val: int | float | None = None
    test: int | float | None = None

    def or_else(self, other: Self) -> Self:
        """Return these counts, with those of ``other`` where these are None."""
        pairs = ((self.train, other.train), (self.val, other.val), (self.test, other.test))
        return type(self)(*(theirs if own is None else own for own, theirs in pairs))


ALL_SCENES: Final = SceneCounts()


@dataclass(frozen=True)
class LabelBudget:
    """A budget of labels: n training scenes keep their labels, the same ones in every stage of the same seed.

    They are the beginning of the seeded, stratified permutation of ``lvad.data.split_algorithms``, so a smaller budget
    lies within every larger one. Validation scenes cost labels too: they are taken from the n, or there are none.

    Args:
        num_labels: n, labelled scenes for training and validation together.
        num_val: how many of them validate, the beginning of the n.
        rest: leave the other training scenes out, or keep them without labels.

    Raises:
        ValueError: for a negative count, or as many scenes that validate as there are labels.
    """

    num_labels: int
    num_val: int = 0
    rest: Rest = "drop"

    def __post_init__(self) -> None:
        if self.num_labels < 0 or self.num_val < 0:
            raise ValueError(f"budget and budget_val must be at least 0, got {self.num_labels} and {self.num_val}")
        if self.num_val >= max(1, self.num_labels):  # something is left to train on
            raise ValueError(f"budget_val must be less than the budget of {self.num_labels}, got {self.num_val}")

    def apply(self, scenes: Mapping[str, list[Scene]], seed: int) -> dict[str, list[Scene]]:
        """Return the splits under this budget; test scenes stay, the source's own validation split is not used.

        Args:
            scenes: of ``train``, ``val`` and ``test``, with all their labels.
            seed: of the choice.

        Raises:
            DataError: for more labels than the training scenes have.
        """
        known = _labelled_only(scenes["train"])
        if self.num_labels > len(known):
            problem = f"budget must be at most the {len(known)} training scenes with labels, got {self.num_labels}"
            raise DataError(f"{problem}; lower it, or choose a source with more")
        order = [known[i].id for i in stratified_permutation(known, seed)[: self.num_labels]]
        val, train = set(order[: self.num_val]), set(order[self.num_val :])
        kept = [
            scene if scene.id in train else without_labels(scene) for scene in scenes["train"] if scene.id not in val
        ]
        return {
            "train": [scene for scene in kept if self.rest == "unlabelled" or scene.id in train],
            "val": [scene._replace(split="val") for scene in scenes["train"] if scene.id in val],
            "test": list(scenes["test"]),
        }

    def __str__(self) -> str:
        val = f", {self.num_val} of them for validation" if self.num_val else ", no validation scenes"
        return f"budget: {self.num_labels} labels{val}; the other training scenes: {self.rest}"


def unlabelled_pool(whole: Iterable[Scene], scenes: Mapping[str, list[Scene]]) -> list[Scene]:
    """Return the training scenes whose labels neither training nor validation uses, with the labels removed."""
    used = {scene.id for scene in _labelled_only(scenes["train"])}
    used |= {scene.id for scene in scenes["val"]}
    return [without_labels(scene) for scene in whole if scene.id not in used]


def without_labels(scene: Scene) -> Scene:
    """Return the scene without labels, captions and facts, so that only its frames can be learnt from."""
    return scene._replace(actions=None, reasons=None, captions=(), facts=None)


def _labelled_only(scenes: Sequence[Scene]) -> list[Scene]:
    return [scene for scene, known in zip(scenes, is_labelled(scenes), strict=True) if known]


class SplitScenes(NamedTuple):
    """The scenes of a source, split."""

    used: dict[str, list[Scene]]
    """The scenes of ``train``, ``val`` and ``test``."""
    pool: list[Scene]
    """Training scenes whose labels are not used, with the labels removed."""


@dataclass(frozen=True)
class Split:
    """The choice of scenes, and the labels that training may use.

    Args:
        subset: ``all`` scenes; ``apart``, the source's splits without training scenes whose recording is also validated
            or tested on, and without validation scenes whose recording is tested on; or the paper's scenes with one
            action and one reason, split anew: ``single`` 8:2, ``grouped`` 8:2 with each recording whole in one split,
            ``reward`` 1,400 / 200 / rest.
        num_scenes: how many scenes of each split to use.
        budget: n, how many training scenes keep their labels; only ``data.seed`` chooses them, so that every stage of
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
    def label_budget(self) -> LabelBudget | None:
        """The budget of labels; None without one."""
        return None if self.budget is None else LabelBudget(self.budget, self.budget_val, self.rest)

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
        whole = split_scenes(reading, self.subset, seed)
        scenes = {
            split: seeded_subset(whole[split], getattr(counts, split), seed, f"num_scenes.{split}") for split in SPLITS
        }
        if budget := self.label_budget:
            scenes = budget.apply(scenes, seed)
        if self.unlabelled:
            scenes["train"] = [without_labels(scene) for scene in scenes["train"]]
        pool = unlabelled_pool(whole["train"], scenes)
        if self.label_file:
            scenes["train"] = with_pseudo_labels(scenes["train"], pool, self.label_file, taxonomy)
        return SplitScenes(scenes, pool)


def streamed_whole(what: str) -> str:
    """Explain that a choice of training scenes cannot be combined with footage."""
    return f"{what} cannot be set with footage, which is streamed whole; shorten a run by max_steps"


def _two_choices(what: str) -> str:
    return f"budget chooses among all training scenes and cannot be set with {what}: set that to null"
