"""What is compared: one setting, and what one step of one side cost in it."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

PROMPT = "Describe the driving scene."


@dataclass(frozen=True)
class Setting:
    """The work of one step, the same for both sides."""

    geometry: str
    tiles: int
    frames: int
    scenes: int
    k: int
    tokens: int
    lora: bool
    freeze_vision: bool
    dtype: str
    seen_before: bool
    """Every step on the same frames, as in later epochs."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def side_px(self) -> int:
        return 128 if self.geometry == "embedded" else 512


@dataclass
class Cost:
    """Of one step."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    """Above weights, gradients and optimizer states; 0 where it was not measured."""
    phases_s: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Tiles through the vision tower, positions through the text model."""


def draw_frames(setting: Setting, step: int) -> list[Tensor]:
    """Noise, uint8[M, 3, H, W] per scene: what is in a picture costs nothing."""
    generator = torch.Generator().manual_seed(0 if setting.seen_before else step)
    shape = (setting.frames, 3, setting.side_px, setting.side_px)
    return [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(setting.scenes)]


def as_pictures(frames: Tensor) -> list[Image.Image]:
    return [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]


def score(texts: list[str]) -> list[float]:
    """A reward that costs nothing and differs between completions."""
    return [(sum(map(ord, text)) % 97) / 97 for text in texts]


@dataclass(frozen=True)
class Side:
    """Where the two sides find the model."""

    folder: Path
    setting: Setting
