"""The semantic alignment reward: cosine of a CLIP between a scene's frames and a sentence."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from lvad.assets import resolve_model
from lvad.types import Batch, Rollouts, Scores

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


class CLIP(nn.Module):
    """An open_clip model with its tokenizer and its image preprocessing, for scenes of several frames.

    Args:
        model: ``embedded/clip``, a folder that open_clip can load, ``hf-hub:NAME``, or an open_clip architecture.
        pretrained: weights of an architecture given by name (an open_clip tag or a file); unused otherwise.

    Raises:
        ValueError: for a folder that holds no open_clip model.
    """

    def __init__(self, model: str = "embedded/clip", pretrained: str | None = None) -> None:
        super().__init__()
        name = model if model.startswith("hf-hub:") else resolve_model(model)
        if os.path.isdir(name):
            if not (Path(name) / CONFIG_FILE).is_file():
                raise ValueError(f"{name} is no open_clip folder: it holds no {CONFIG_FILE}")
            name = f"local-dir:{name}"
        # ``preprocess`` does on batches of tensors what open_clip's own transform does on one PIL image.
        self.clip: Any = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, require_pretrained=pretrained is not None
        )[0]
        self.tokenizer: Any = open_clip.get_tokenizer(name)
        self.config = {
            "model_cfg": open_clip.get_model_config(name),
            "preprocess_cfg": self.clip.visual.preprocess_cfg,
        }

    @property
    def logit_scale(self) -> Tensor:
        """The inverse temperature, exponentiated: float[]."""
        return self.clip.logit_scale.exp()

    def preprocess(self, frames: Tensor) -> Tensor:
        """float[M, 3, S, S] model input from uint8[M, 3, H, W]: resize (as configured), crop, normalise."""
        cfg = self.clip.visual.preprocess_cfg
        size = cfg["size"] if isinstance(cfg["size"], int) else cfg["size"][0]
        target = [size, size] if cfg["resize_mode"] == "squash" else [size]
        if tuple(frames.shape[-2:]) != (size, size):
            mode = tv.InterpolationMode(cfg["interpolation"])
            frames = tv.resize(frames, target, interpolation=mode, antialias=True)
            frames = tv.center_crop(frames, [size, size])
        return tv.normalize(tv.to_dtype(frames, torch.float32, scale=True), cfg["mean"], cfg["std"])

    def embed_frames(self, frames: list[Tensor]) -> Tensor:
        """Unit vectors float[B, D]: the mean of each scene's unit frame embeddings, normalised again.

        The paper's text averages and does not say whether the mean is renormalised (section 3.4); it calls the
        product a cosine, so it is.
        """
        counts = [len(f) for f in frames]
        pixels = torch.cat([self.preprocess(f) for f in frames]).to(self.clip.logit_scale.device)
        each = F.normalize(self.clip.encode_image(pixels), dim=-1)
        return F.normalize(torch.stack([e.mean(0) for e in each.split(counts)]), dim=-1)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit vectors float[N, D]; what exceeds the context length is cut."""
        tokens = self.tokenizer(texts).to(self.clip.logit_scale.device)
        return F.normalize(self.clip.encode_text(tokens), dim=-1)

    def save_pretrained(self, folder: Path, dtype: str = "float32") -> None:
        """Write a folder that plain open_clip loads as ``local-dir:FOLDER``, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            k: v.detach().to("cpu", getattr(torch, dtype)).contiguous() for k, v in self.clip.state_dict().items()
        }
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            save_file(weights, Path(scratch) / WEIGHTS_FILE)
            (Path(scratch) / CONFIG_FILE).write_text(json.dumps(self.config, indent=2) + "\n")
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                os.replace(Path(scratch) / name, folder / name)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(folder)


class CLIPCosine(nn.Module):
    """R(I, T) = v . t with a frozen CLIP (section 3.4 of the paper).

    Args:
        model: as for ``CLIP``.
        pretrained: as for ``CLIP``.
    """

    def __init__(self, model: str = "embedded/clip-reward", pretrained: str | None = None) -> None:
        super().__init__()
        self.clip = CLIP(model, pretrained).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "CLIPCosine":
        """Stay in evaluation mode: a judge does not change while it judges."""
        return super().train(False)

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Cosines float[B, K], frames embedded once per scene and all B K texts in one forward."""
        images = self.clip.embed_frames(batch.frames)
        texts = self.clip.embed_texts([text for row in rollouts.texts for text in row])
        cosines = torch.einsum("bd,bkd->bk", images, texts.view(len(images), -1, texts.shape[-1])).float()
        return Scores(cosines, {"clip": cosines})
