"""The semantic alignment reward: the cosine of a CLIP between a scene's frames and a sentence.

``preprocess`` does to all frames of a scene at once what open_clip's own transform does to one PIL image.
"""

import json
import os
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from lvad.assets import loading, resolve_model
from lvad.ops import fingerprints
from lvad.types import Batch, Rollouts, Scores

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


class CLIP(nn.Module):
    """An open_clip model with its tokenizer and its image preprocessing, for scenes of several frames.

    Args:
        model: ``embedded/clip``, a folder that open_clip can load, ``hf-hub:NAME``, or an open_clip architecture.
        pretrained: weights of an architecture given by name (an open_clip tag or a file); unused otherwise.

    Raises:
        ValueError: for a folder that holds no open_clip model, and for any model that cannot be loaded whole.
    """

    def __init__(self, model: str = "embedded/clip", pretrained: str | None = None) -> None:
        super().__init__()
        self.source = name = model if model.startswith("hf-hub:") else resolve_model(model)
        if os.path.isdir(name):
            if not (Path(name) / CONFIG_FILE).is_file():
                raise ValueError(f"{name} is no open_clip folder: it holds no {CONFIG_FILE}")
            with loading(model):
                _check_clip_size(Path(name))
            name = f"local-dir:{name}"
        # Only the name of an architecture may give random weights, with a warning: CLIPReward can start from them.
        self.is_trained = is_trained = pretrained is not None or name.startswith(("local-dir:", "hf-hub:"))
        if not is_trained:
            warnings.warn(f"the open_clip model {model!r} starts from random weights: no pretrained", stacklevel=2)
        with loading(model):
            # ``preprocess`` does on batches of tensors what open_clip's own transform does on one PIL image.
            self.clip: Any = open_clip.create_model_and_transforms(
                name, pretrained=pretrained, require_pretrained=is_trained
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
        """Resize, crop or pad, and normalise frames uint8[M, 3, H, W] to the model's input float[M, 3, S, S']."""
        return preprocess(frames, self.clip.visual.preprocess_cfg)

    def embed_frames(self, frames: list[Tensor]) -> Tensor:
        """Embed scenes as unit vectors float[B, D]: the mean of a scene's unit frame embeddings, normalised again.

        The paper's text averages and does not say whether the mean is renormalised (section 3.4); it calls the
        product a cosine, so it is.
        """
        counts = [len(f) for f in frames]
        weight = next(self.clip.visual.parameters())  # 16 bits, where a strategy turns the module into them
        pixels = torch.cat([self.preprocess(f) for f in frames]).to(weight.device, weight.dtype)
        each = F.normalize(self.clip.encode_image(pixels), dim=-1)
        return F.normalize(torch.stack([e.mean(0) for e in each.split(counts)]), dim=-1)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embed texts as unit vectors float[N, D]; tokens beyond the context length are cut off."""
        model: Any = self.clip
        tokens: Tensor = self.tokenizer(texts)
        device = self.clip.logit_scale.device
        attn_mask: Tensor | None = getattr(model, "attn_mask", None)
        if type(self.clip) is not open_clip.model.CLIP or attn_mask is None:
            return F.normalize(self.clip.encode_text(tokens.to(device, non_blocking=True)), dim=-1)
        # Under a causal mask the padding after the longest text changes nothing, and is most of the work. One column
        # of padding stays, because a text that fills the context has its end token last. The length is computed before
        # the tokens move to the device, as the host would have to wait for it there.
        is_used = (tokens != tokens[:1, -1:]).any(0).nonzero()
        length = min(tokens.shape[1], int(is_used.max()) + 2) if len(is_used) else 1
        cut = {
            "positional_embedding": model.positional_embedding[:length],
            "attn_mask": attn_mask[:length, :length],
        }
        return torch.func.functional_call(
            self.clip, cut, kwargs={"text": tokens[:, :length].to(device, non_blocking=True)}
        )[1]

    def save_pretrained(self, folder: Path, dtype: str = "float32") -> None:
        """Write a folder that plain open_clip loads as ``local-dir:FOLDER``, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            k: v.detach().to("cpu", getattr(torch, dtype)).contiguous() for k, v in self.clip.state_dict().items()
        }
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            save_file(weights, Path(scratch) / WEIGHTS_FILE)
            (Path(scratch) / CONFIG_FILE).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                os.replace(Path(scratch) / name, folder / name)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(folder)


def _check_clip_size(folder: Path) -> None:
    """Refuse sizes that the files cannot hold, because open_clip allocates what the configuration names.

    Raises:
        ValueError: if the least number of parameters is larger than the files.
    """
    encoders = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
    num_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    for encoder in (encoders["text_cfg"], encoders["vision_cfg"]):
        sizes = [encoder.get(name, 1) for name in ("width", "layers", "vocab_size", "context_length", "image_size")]
        # A ResNet's are lists; what is no number at all, open_clip refuses.
        width, layers, *lengths = (size if isinstance(size, int) else 1 for size in sizes)
        if width * max(width * layers, *lengths) > num_bytes:
            raise ValueError(f"it says {encoder!r:.300}, which the {num_bytes:,} bytes of the folder cannot hold")


class CLIPCosine(nn.Module):
    """R(I, T) = v . t with a frozen CLIP (section 3.4 of the paper).

    A frozen CLIP always embeds a scene in the same way, so the embeddings of scenes are cached.

    Args:
        model: as for ``CLIP``.
        pretrained: as for ``CLIP``.
        cache_scenes: number of scenes whose embeddings are cached, in 4 D bytes of main memory each (100,000 scenes of
            D = 512: 200 MB); 0 embeds every scene anew.

    Raises:
        ValueError: for a negative ``cache_scenes``, or an architecture without weights.
    """

    def __init__(
        self, model: str = "embedded/clip-reward", pretrained: str | None = None, cache_scenes: int = 100_000
    ) -> None:
        super().__init__()
        if cache_scenes < 0:
            raise ValueError(f"cache_scenes must be >= 0 (0 switches it off), got {cache_scenes}")
        self.clip = CLIP(model, pretrained).requires_grad_(False).eval()
        if not self.clip.is_trained:
            raise ValueError(
                f"the open_clip architecture {model!r} without weights judges at random: give pretrained, such as "
                "openai or a file of weights, or name embedded/clip-reward, a folder or hf-hub:NAME"
            )
        self.cache_scenes = cache_scenes
        # Digest to float[D] on the CPU, the scene used last at the end. No buffer: it enters no checkpoint.
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def train(self, mode: bool = True) -> "CLIPCosine":
        """Stay in evaluation mode: a reward must not change during training."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> "CLIPCosine":
        """Move with the module, but stay in float32 where it becomes 16 bits: completions differ by thousandths."""

        def moved(values: Tensor) -> Tensor:
            made = fn(values)
            return made if made.dtype == values.dtype else values.to(made.device)

        return super()._apply(moved, recurse)

    @torch.no_grad()
    def embed_scenes(self, batch: Batch) -> Tensor:
        """Embed scenes as unit vectors float[B, D] on the CLIP's device; scenes not yet cached have a pass each."""
        if self.cache_scenes == 0:
            return self.clip.embed_frames(batch.frames).float()
        keys = fingerprints(batch.frames)
        rows = {key: self._kept[key] for key in keys if key in self._kept}
        missing = {key: frames for key, frames in zip(keys, batch.frames, strict=True) if key not in rows}
        # Each scene has its own pass: rounding depends on the batch, and a resumed run has other scenes in the batch
        # than the run that was interrupted.
        embedded = [self.clip.embed_frames([frames]).float() for frames in missing.values()]
        if embedded:
            rows |= {key: row.clone() for key, row in zip(missing, torch.cat(embedded).cpu(), strict=True)}
        for key, row in rows.items():
            self._kept[key] = row
            self._kept.move_to_end(key)
        while len(self._kept) > self.cache_scenes:
            self._kept.popitem(last=False)
        return torch.stack([rows[key] for key in keys]).to(self.clip.logit_scale.device, non_blocking=True)

    @torch.no_grad()
    def embed_completions(self, rollouts: Rollouts) -> Tensor:
        """Embed completions as unit vectors float[B, K, D], in one pass with each different text once."""
        texts = [text for row in rollouts.texts for text in row]
        position = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        distinct = self.clip.embed_texts(list(position)).float()
        rows = torch.tensor([position[text] for text in texts]).to(distinct.device, non_blocking=True)
        return distinct[rows].view(len(rollouts.texts), -1, distinct.shape[-1])

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions by their cosines with the scenes, float[B, K]."""
        images, texts = self.embed_scenes(batch), self.embed_completions(rollouts)
        # Not an einsum, which would round to 16 bits under autocast: completions differ by thousandths.
        cosines = (images.unsqueeze(1) * texts).sum(-1)
        return Scores(cosines, {"clip": cosines})

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._kept.clear()  # the embeddings of other weights


def preprocess(frames: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Bring frames to a model's size, and normalise them.

    ``squash`` stretches to the size, ``shortest`` covers it and crops what is over, ``longest`` fits into it and pads
    the rest with ``fill_color``.

    Args:
        frames: uint8[M, 3, H, W].
        config: open_clip's ``preprocess_cfg``: ``size`` (one number, or height and width), ``resize_mode``,
            ``interpolation``, ``mean``, ``std`` and, for padding, ``fill_color``.

    Returns:
        float[M, 3, S, S'] of that size; resized pixels are rounded to bytes, as those of an image are.

    Raises:
        ValueError: for a ``resize_mode`` that open_clip does not have.
    """
    size, mode = _height_and_width(config["size"]), config["resize_mode"]
    if mode not in ("squash", "shortest", "longest"):
        raise ValueError(f"resize_mode must be squash, shortest or longest, got {mode!r}")
    resized = list(size) if mode == "squash" else _scaled(tuple(frames.shape[-2:]), size, longest=mode == "longest")
    # open_clip takes bicubic where it covers a size that is not square, whatever is configured.
    is_fixed = mode == "shortest" and size[0] != size[1]
    kernel = tv.InterpolationMode.BILINEAR if config["interpolation"] == "bilinear" else tv.InterpolationMode.BICUBIC
    kernel = tv.InterpolationMode.BICUBIC if is_fixed else kernel
    frames = tv.resize(frames, resized, interpolation=kernel, antialias=True)
    frames = _crop_or_pad(frames, size, config.get("fill_color", 0))
    mean, std = (_constants(tuple(config[name]), frames.device) for name in ("mean", "std"))
    return (tv.to_dtype(frames, torch.float32, scale=True) - mean) / std


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _constants(channels: tuple[float, ...], device: torch.device) -> Tensor:
    """Make the constants of the normalisation float[3, 1, 1] on a device, once, as the host waits for each copy."""
    return torch.tensor(channels, dtype=torch.float32, device=device).view(-1, 1, 1)


def _height_and_width(size: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _scaled(source: tuple[int, ...], target: tuple[int, int], longest: bool) -> list[int]:
    """Scale a size so that it fits into the target (``longest``) or covers it, in the form that torchvision takes."""
    if not longest and target[0] == target[1]:
        return [target[0]]  # of the shorter edge; the other one is cut off to a whole number and not rounded
    ratios = [have / wanted for have, wanted in zip(source, target, strict=True)]
    ratio = max(ratios) if longest else min(ratios)
    return [max(1, round(have / ratio)) for have in source]


def _crop_or_pad(frames: Tensor, size: tuple[int, int], fill: int) -> Tensor:
    """Crop the middle of the frames, or pad those that are too small with an even margin."""
    height, width = frames.shape[-2:]
    missing = max(0, size[0] - height), max(0, size[1] - width)
    if any(missing):
        left, top = missing[1] // 2, missing[0] // 2
        frames = tv.pad(frames, [left, top, missing[1] - left, missing[0] - top], fill=[fill])
    return tv.center_crop(frames, list(size))
