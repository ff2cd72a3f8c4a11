"""The source of the scenes: ``data.source`` of a configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lvad.data.decoding import keep_decodable
from lvad.data.frames import read_frames
from lvad.data.layouts import detect_layout, read_source
from lvad.data.reading import Reading
from lvad.data.split import ALL_SCENES, SceneCounts
from lvad.data.synthetic_set import DEFAULT_COUNTS, SyntheticSet
from lvad.errors import DataError
from lvad.taxonomy import Taxonomy


@dataclass(frozen=True)
class Source:
    """The source of the scenes: BDD-OIA in either layout, your own scenes, plain frames or video, or a synthetic set.

    Args:
        format: what ``root`` holds. "synthetic" draws a labelled set there if there is none yet; "auto" finds
            out by itself.
        root: folder of the label files, or a ``.jsonl`` file; for frames a folder of pictures, a picture, or a video.
        images: folder of the pictures, where they do not lie beside the label files.
        num_frames: M, the most frames of a scene, the last ones.
        image_size_px: longest edge of a frame after reduction; None keeps the size on disk.
        fps: frames per second taken from a video.
        video_stream: which of a video's several streams, such as a front and a rear camera, counted from 0; None takes
            the one that is marked as default, or the largest.
        footage: train on scenes streamed from these shards instead, without labels: one or several folders, or URLs
            that fsspec knows, as ``lvad data shard`` makes them; ``root`` then gives only the other splits.
        num_drawn: how many scenes of each split "synthetic" draws where there is no set yet; None draws as many as
            ``split.num_scenes`` uses, and where that gives no count either, 800, 128 and 300.
        drawing_seed: seed of the synthetic scenes; a larger set begins with the scenes of a smaller one. It is not
            ``data.seed``, so that runs with different seeds are tested on the same scenes.

    Raises:
        ValueError: for a value out of range.
    """

    format: Literal["auto", "lastframe", "gt_4a_21r", "jsonl", "frames", "synthetic"] = "synthetic"
    root: str = "data/synthetic"
    images: str | None = None
    num_frames: int = 2
    image_size_px: int | None = None
    fps: float = 1.0
    video_stream: int | None = None
    footage: list[str] | str | None = None
    num_drawn: SceneCounts = ALL_SCENES
    drawing_seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, self.num_frames, "num_frames")
        at_least(0, self.drawing_seed, "drawing_seed")
        if self.image_size_px is not None:
            at_least(1, self.image_size_px, "image_size_px")
        if self.video_stream is not None:
            at_least(0, self.video_stream, "video_stream")

    @property
    def path(self) -> Path:
        """The path ``root``, with ``~`` expanded."""
        return Path(self.root).expanduser()

    @property
    def shard_urls(self) -> list[str]:
        """The folders or URLs of the footage; empty without any."""
        return [self.footage] if isinstance(self.footage, str) else self.footage or []

    def synthetic_set(self, num_scenes: SceneCounts) -> SyntheticSet | None:
        """Return the set that is drawn at ``root``; None for another format.

        Args:
            num_scenes: scenes that are used of each split.
        """
        if self.format != "synthetic":
            return None
        counts = self.num_drawn.or_else(num_scenes).or_else(SceneCounts(**DEFAULT_COUNTS))
        return SyntheticSet(self.path, counts, self.num_frames, self.drawing_seed)

    def prepare(self, num_scenes: SceneCounts, taxonomy: Taxonomy) -> None:
        """Draw the set, or decode the videos, where that has not been done yet.

        Args:
            num_scenes: scenes that are used of each split.
            taxonomy: the label set.

        Raises:
            DataError: for a set drawn earlier with other labels, or a video that cannot be read.
        """
        if synthetic := self.synthetic_set(num_scenes):
            synthetic.generate_if_absent(taxonomy)
        elif (detect_layout(self.path) if self.format == "auto" else self.format) == "frames":
            read_frames(self.path, self.num_frames, fps=self.fps, video_stream=self.video_stream)

    def read(self, taxonomy: Taxonomy) -> Reading:
        """Read every scene of ``root``; every row must be usable.

        Raises:
            DataError: at the first fault (with the number of further ones), and for labels without pictures.
        """
        reading = self._read(taxonomy).require()
        if not reading.has_images:
            raise DataError.at(self.path, "", "no pictures beside the label files", "give their folder as images=")
        return reading

    def read_for_prediction(self, taxonomy: Taxonomy) -> Reading:
        """Read every scene of ``root`` that can be decoded; every frame of a sequence ends one.

        Raises:
            DataError: if none can be decoded.
        """
        return keep_decodable(self._read(taxonomy, from_first=True), self.image_size_px)

    def _read(self, taxonomy: Taxonomy, from_first: bool = False) -> Reading:
        return read_source(
            self.path,
            "lastframe" if self.format == "synthetic" else self.format,
            self.num_frames,
            Path(self.images).expanduser() if self.images else None,
            self.fps,
            self.video_stream,
            from_first,
            taxonomy,
        )


def at_least(least: int, value: int, what: str) -> int:
    """Return a value that is at least ``least``.

    Raises:
        ValueError: naming the value, where it is smaller.
    """
    if value < least:
        raise ValueError(f"{what} must be at least {least}, got {value}")
    return value
