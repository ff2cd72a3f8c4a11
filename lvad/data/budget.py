"""A budget of labels: n training scenes keep their labels, the same ones in every stage of the same seed.

They are the beginning of the seeded, stratified permutation of ``lvad.data.splits``, so a smaller budget lies within
every larger one. Validation scenes are labels too: they come out of the n, or there are none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lvad.data.splits import is_labelled, permutation
from lvad.errors import DataError
from lvad.types import Scene

Rest = Literal["drop", "unlabelled"]


@dataclass(frozen=True)
class Budget:
    """How many labels there are, and what becomes of the scenes without one.

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

    def spend(self, scenes: Mapping[str, list[Scene]], seed: int) -> dict[str, list[Scene]]:
        """The splits under this budget; test scenes are as they were, a source's validation split is not used.

        Args:
            scenes: of ``train``, ``val`` and ``test``, with all their labels.
            seed: of the choice.

        Raises:
            DataError: for more labels than the training scenes have.
        """
        known = _labelled(scenes["train"])
        if self.num_labels > len(known):
            problem = f"budget must be at most the {len(known)} training scenes with labels, got {self.num_labels}"
            raise DataError(f"{problem}; lower it, or choose a source with more")
        order = [known[i].id for i in permutation(known, seed)[: self.num_labels]]
        val, train = set(order[: self.num_val]), set(order[self.num_val :])
        kept = [scene if scene.id in train else hidden(scene) for scene in scenes["train"] if scene.id not in val]
        return {
            "train": [scene for scene in kept if self.rest == "unlabelled" or scene.id in train],
            "val": [scene._replace(split="val") for scene in scenes["train"] if scene.id in val],
            "test": list(scenes["test"]),
        }

    def __str__(self) -> str:
        val = f", {self.num_val} of them for validation" if self.num_val else ", no validation scenes"
        return f"budget: {self.num_labels} labels{val}; the other training scenes: {self.rest}"


def unused(whole: Iterable[Scene], scenes: Mapping[str, list[Scene]]) -> list[Scene]:
    """The scenes of the whole training split whose labels neither training nor validation uses, without labels."""
    used = {scene.id for scene in _labelled(scenes["train"])}
    used |= {scene.id for scene in scenes["val"]}
    return [hidden(scene) for scene in whole if scene.id not in used]


def hidden(scene: Scene) -> Scene:
    """The scene without anything to learn from but its frames."""
    return scene._replace(actions=None, reasons=None, captions=(), facts=None)


def _labelled(scenes: Sequence[Scene]) -> list[Scene]:
    return [scene for scene, known in zip(scenes, is_labelled(scenes), strict=True) if known]
