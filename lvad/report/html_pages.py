"""What lvad's HTML pages share: one style sheet, pictures inside the page, and hashes for its content policy."""

import base64
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image
from torch import Tensor

STYLE: Final = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
MAX_FRAME_PX: Final = 640


class InlinedPicture(NamedTuple):
    """A picture that a page holds itself."""

    address: str
    """A ``data:`` URL of a JPEG."""
    width_px: int
    height_px: int


def inlined(frames: Tensor, longest_px: int = MAX_FRAME_PX) -> Iterator[InlinedPicture]:
    """Turn the frames of a scene into pictures inside a page, one by one.

    Args:
        frames: uint8[M, 3, H, W].
        longest_px: longest edge of a picture; larger frames are reduced.

    Raises:
        ValueError: for other frames.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or str(frames.dtype) != "torch.uint8" or not len(frames):
        raise ValueError(f"frames must be uint8[M, 3, H, W], got {frames.dtype}{list(frames.shape)}")
    for frame in frames.cpu().permute(0, 2, 3, 1).contiguous().numpy():
        picture = Image.fromarray(frame)
        picture.thumbnail((longest_px, longest_px))
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=85)
        data = base64.b64encode(encoded.getvalue()).decode()
        yield InlinedPicture(f"data:image/jpeg;base64,{data}", picture.width, picture.height)


def content_hash(text: str) -> str:
    """The source of a ``Content-Security-Policy`` that lets exactly this script or style run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
