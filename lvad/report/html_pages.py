"""What all HTML pages of lvad share: the style sheet, the escaping of texts, inlined pictures, the content policy."""

import base64
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

STYLE: Final = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
MAX_FRAME_PX: Final = 640
FIGURE_DPI: Final = 120


def make_template_environment(loader: BaseLoader) -> Environment:
    """Make a template environment that escapes every text and refuses an unknown name."""
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


TEMPLATES: Final = make_template_environment(PackageLoader("lvad.report"))
"""The templates of the pages in a run folder."""


class InlinedPicture(NamedTuple):
    """A picture that is part of the page's own file."""

    address: str
    """A ``data:`` URL with the encoded picture."""
    width_px: int
    height_px: int


def inline_frames(frames: Tensor, longest_px: int = MAX_FRAME_PX) -> Iterator[InlinedPicture]:
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
        yield InlinedPicture(_data_url("jpeg", encoded), picture.width, picture.height)


def inline_figure(figure: Figure) -> InlinedPicture:
    """Turn a figure into a picture inside a page."""
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=FIGURE_DPI)
    width, height = figure.get_size_inches() * FIGURE_DPI
    return InlinedPicture(_data_url("png", encoded), round(width), round(height))


def content_hash(text: str) -> str:
    """Write the source of a ``Content-Security-Policy`` that lets exactly this script or style run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data_url(kind: str, encoded: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}"
