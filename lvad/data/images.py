"""Picture files: which exist below a folder, and how one is opened."""

import io
import os
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from lvad.data.reading import plain_file
from lvad.errors import DataError

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
UNREAD_IMAGE_SUFFIXES: Final = frozenset(
    {".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif", ".ppm", ".pgm", ".tga", ".dng"}
)
"""Suffixes of picture formats that are not read; files with them are reported."""
BACKGROUND: Final = (255, 255, 255)
"""The colour behind the transparent parts of a picture: white, as in most viewers."""

# Pillow goes by what a file holds and not by its name: PostScript called a.jpg would start Ghostscript.
_FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP")

_NUMBERED = re.compile(r"(?P<id>.+)_(?P<number>[0-9]{1,9})", re.S)


def split_number(stem: str) -> tuple[str, int] | None:
    """Split ``<id>_<n>`` into its parts; None for a name of another form."""
    match = _NUMBERED.fullmatch(stem)
    return (match["id"], int(match["number"])) if match else None


def natural_key(name: str) -> list[str | int]:
    """Return a sort key under which ``frame_2`` comes before ``frame_10``."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))]


def walk(root: Path, suffixes: frozenset[str]) -> dict[str, list[str]]:
    """Map relative folders to file names in natural order; linked folders are followed, each real folder once."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        wanted = [n for n in names if Path(n).suffix.lower() in suffixes and not n.startswith(".")]
        if wanted:
            relative = Path(folder).relative_to(root).as_posix()
            found["" if relative == "." else relative] = sorted(wanted, key=natural_key)
    return found


@dataclass
class ImageIndex:
    """The pictures below one folder, listed once, so that look-ups cost no disk access."""

    root: Path
    files: set[str] = field(default_factory=set)
    """Names relative to ``root``, with forward slashes."""
    by_stem: dict[str, str] = field(default_factory=dict)
    """``a/b`` -> ``a/b.jpg``."""
    numbered: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    """``a/b`` -> ``[(0, 'a/b_0.jpg'), (1, 'a/b_1.jpg')]``, sorted."""
    folders: dict[str, list[str]] = field(default_factory=dict)
    """``a`` -> its own pictures, in natural order."""

    @classmethod
    def of(cls, root: Path) -> "ImageIndex":
        """List the pictures below ``root``; an absent folder gives an empty index."""
        index = cls(root)
        for folder, names in walk(root, IMAGE_SUFFIXES).items():
            files = [f"{folder}/{name}" if folder else name for name in names]
            index.folders[folder] = files
            index.files.update(files)
            for file in files:
                stem = file[: -len(Path(file).suffix)]
                index.by_stem.setdefault(stem, file)
                if numbered := split_number(stem):
                    index.numbered[numbered[0]].append((numbered[1], file))
        for entries in index.numbered.values():
            entries.sort()
        return index


def open_image(path: Path | str, image_size_px: int | None = None, content: bytes | None = None) -> Image.Image:
    """Decode one picture whole: upright, RGB, 8 bits, on ``BACKGROUND`` where it is transparent.

    Args:
        path: a picture file.
        image_size_px: longest edge of the result; larger pictures are reduced, smaller ones stay as they are.
        content: the file's bytes where they were read before; ``path`` is then only its name.

    Returns:
        An RGB image with its EXIF orientation applied.

    Raises:
        DataError: if the file is missing, unreadable, truncated, no plain file, of another format, or beyond PIL's
            decompression-bomb limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if content is None:
                plain_file(Path(path))
            with Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS) as opened:
                # A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, but not below what is asked for.
                opened.draft("RGB", reduced_size(opened.size, image_size_px))
                return prepare_image(opened, image_size_px)
    except FileNotFoundError as error:
        raise DataError.at(path, "", "image is missing", "restore it, or correct the path") from error
    # Broken files make PIL raise almost anything: OSError, SyntaxError, struct.error, zlib.error, IndexError.
    except Exception as error:
        problem = f"image cannot be decoded ({type(error).__name__}: {error})"
        raise DataError.at(path, "", problem, "fetch the file again, or remove its row") from error


def prepare_image(image: Image.Image, image_size_px: int | None = None) -> Image.Image:
    """Turn a picture upright, convert it to RGB and reduce it, as ``open_image`` does.

    Args:
        image: any picture; its EXIF orientation is applied in place.
        image_size_px: longest edge of the result; None keeps the size.

    Raises:
        OSError: if its file cannot be decoded; Pillow has other errors too.
    """
    ImageOps.exif_transpose(image, in_place=True)
    return reduce_image(to_rgb(image), image_size_px)


def reduce_image(image: Image.Image, longest_px: int | None) -> Image.Image:
    """Reduce a picture so that its longest edge has at most so many pixels; None leaves it as it is."""
    size = reduced_size(image.size, longest_px)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture to RGB of 8 bits, without transparency; 16-bit grey is divided by 257: white stays white."""
    if image.mode.startswith("I"):  # PIL itself would cut every value above 255 off
        return _from_16_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)  # int64[H, W], 0 to 65535
    grey = np.round(values.clip(0, 65535) / 257).astype(np.uint8)
    pixels = np.stack([grey] * 3, axis=-1)  # uint8[H, W, 3]
    if (hidden := image.info.get("transparency")) is not None:
        pixels[values == hidden] = BACKGROUND
    return Image.fromarray(pixels)


def reduced_size(size: tuple[int, int], longest_px: int | None) -> tuple[int, int]:
    """Compute width and height of a picture after ``reduce_image``."""
    longest = max(size)
    if longest_px is None or longest <= longest_px:
        return size
    return max(1, round(size[0] * longest_px / longest)), max(1, round(size[1] * longest_px / longest))
