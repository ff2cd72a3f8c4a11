"""The reader reward: how well the right decision can be predicted from a description alone.

q(actions, reasons | description) is a logistic regression per label on the words of the description. The model that
judges a labelled scene was fitted on the other folds of scenes, so it cannot have memorised the scene's labels.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lvad.assets import loading, resolve_model
from lvad.rewards.clip import CLIP
from lvad.rewards.text_features import TextFeatures
from lvad.types import UNLABELLED, Batch, Rollouts, Scores

CONFIG: Final = "reader.json"
WEIGHTS: Final = "reader.safetensors"
PSEUDO_LABELS: Final = "pseudo_labels.json"
_CLIP: Final = "clip"


class LabelledScene(NamedTuple):
    """A scene whose labels the reader was fitted on."""

    fold: int
    """The fold of the scene: the index of the model that was not fitted on it."""
    labels: list[int]
    """C zeros and ones."""


class ReaderParts(NamedTuple):
    """The fitted parts of a reader, as its folder holds them."""

    vocabulary: list[str]
    weights: Tensor
    """float64[F + 1, D, C] with C = A + R labels, actions first; model F, the last, was fitted on all folds."""
    offsets: Tensor
    """float64[F + 1, C]."""
    scenes: dict[str, LabelledScene]
    """The labelled scenes by id."""
    pseudo_labels: dict[str, list[int]]
    """C zeros and ones of each scene that the reader is sure of, by id."""


class Reader(nn.Module):
    """log q(y | description) of the right labels y, the mean over the A + R labels: at most 0.

    The right labels are those that the batch shows, else those that the reader was fitted on (found by the scene's id),
    else its pseudo-labels. A labelled scene is judged by the model of its fold, every other scene by the model of all
    folds. All completions of a scene without known labels get 0, so that none has an advantage. The term ``known`` is 1
    where labels are known.

    The reader sees no frames, so a description that leads to the right decision but is wrong of the scene may score
    high: ``Mix`` it with a CLIP.

    Args:
        model: the folder that a run of ``TextReader`` exported.

    Raises:
        ValueError: for a folder that holds no reader.

    Source:
        CapRL (arXiv:2509.22647): the reward of a caption is what a reader without the picture can answer from it; SSRM
        (arXiv:2409.06903): a reward model that labels its own scenes.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self.source = folder = resolve_model(model)
        if not (Path(folder) / CONFIG).is_file():
            raise ValueError(f"{folder} holds no {CONFIG}; give the model folder of a run of configs/study/reader.yaml")
        with loading(model):
            self.parts = load_reader(Path(folder))
        clip = Path(folder) / _CLIP
        self.features = TextFeatures(self.parts.vocabulary, CLIP(str(clip)) if clip.is_dir() else None)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Reader":
        """Stay in evaluation mode: a reward must not change during training."""
        return super().train(False)

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K] in nats per label."""
        device = rollouts.logps.device
        shown = torch.cat([batch.actions, batch.reasons], 1).tolist()
        rows = [self._score_scene(*scene) for scene in zip(batch.ids, shown, rollouts.texts, strict=True)]
        total = torch.stack([row for row, _ in rows]).float().to(device)
        known = torch.tensor([[float(is_known)] for _, is_known in rows], device=device).expand_as(total)
        return Scores(total, {"reader": total, "known": known})

    def labels_of(self, name: str, shown: list[int]) -> list[int] | None:
        """Return the right labels of a scene, C zeros and ones; None where none are known.

        Args:
            name: the scene's id.
            shown: the labels in the batch.
        """
        if UNLABELLED not in shown:
            return shown
        own = self.parts.scenes.get(name)
        return self.parts.pseudo_labels.get(name) if own is None else own.labels

    def _score_scene(self, name: str, shown: list[int], texts: list[str]) -> tuple[Tensor, bool]:
        """Score the completions of one scene, float64[K]; also tell whether its labels are known."""
        labels, own = self.labels_of(name, shown), self.parts.scenes.get(name)
        if labels is None:
            return torch.zeros(len(texts), dtype=torch.float64), False
        model = len(self.parts.weights) - 1 if own is None else own.fold
        logits = self.features(texts) @ self.parts.weights[model] + self.parts.offsets[model]  # float64[K, C]
        return label_logps(logits, torch.tensor(labels, dtype=torch.float64)), True


def label_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean log-probability of independent labels: float[...] of logits and labels float[..., C]."""
    logits, labels = torch.broadcast_tensors(logits, labels)
    return -F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(-1)


def save_reader(folder: Path, parts: ReaderParts, clip: CLIP | None) -> None:
    """Write the files that ``Reader`` loads, except the pseudo-labels.

    ``lvad.data.pseudo_labels.write_pseudo_labels`` writes those.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weights": parts.weights.contiguous(), "offsets": parts.offsets.contiguous()}, folder / WEIGHTS)
    scenes = {name: scene._asdict() for name, scene in parts.scenes.items()}
    text = json.dumps({"vocabulary": parts.vocabulary, "scenes": scenes}, indent=0, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    if clip is not None:
        clip.save_pretrained(folder / _CLIP)


def load_reader(folder: Path) -> ReaderParts:
    """Load what ``save_reader`` wrote, with the pseudo-labels.

    Raises:
        ValueError: for files that do not belong together; the JSON and safetensors libraries have errors of their own.
    """
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    pseudo: dict[str, Any] = json.loads((folder / PSEUDO_LABELS).read_text(encoding="utf-8"))
    tensors = load_file(folder / WEIGHTS)
    parts = ReaderParts(
        vocabulary=config["vocabulary"],
        weights=tensors["weights"],
        offsets=tensors["offsets"],
        scenes={name: LabelledScene(**row) for name, row in config["scenes"].items()},
        pseudo_labels={name: [*row["actions"], *row["reasons"]] for name, row in pseudo.items()},
    )
    _check(parts)
    return parts


def _check(parts: ReaderParts) -> None:
    num_models, _, num_labels = parts.weights.shape
    if parts.offsets.shape != (num_models, num_labels):
        raise ValueError(f"offsets are {list(parts.offsets.shape)}, weights {list(parts.weights.shape)}")
    labels = {name: scene.labels for name, scene in parts.scenes.items()} | parts.pseudo_labels
    if wrong := [name for name, row in labels.items() if len(row) != num_labels]:
        raise ValueError(f"scene {wrong[0]!r} has {len(labels[wrong[0]])} labels, the weights {num_labels}")
    if any(not 0 <= scene.fold < num_models - 1 for scene in parts.scenes.values()):
        raise ValueError(f"a scene's fold is none of the {num_models - 1}")
