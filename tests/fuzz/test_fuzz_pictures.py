"""Pictures, videos and folders of them: decoded within bounds, or refused."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hostile import break_bytes, cases, one_line, refused
from PIL import Image

from lvad.cli import main
from lvad.data.check import check_source, print_report
from lvad.data.frames import read_frames, video_frames
from lvad.data.images import open_image
from lvad.data.layouts import read_source
from lvad.data.videos import _LIMITS
from lvad.errors import DataError


def picture(kind: str, size: tuple[int, int] = (24, 16)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=exif)
    return file.getvalue()


def video(path: Path, codec: str = "mpeg4", pix_fmt: str = "yuv420p") -> bytes:
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a drive"
        stream = container.add_stream(codec, rate=4)
        stream.width, stream.height, stream.pix_fmt = 32, 16, pix_fmt
        for i in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 32, 3), 40 * i, np.uint8), "rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


PICTURES = {kind: picture(kind) for kind in ("JPEG", "PNG", "BMP", "WEBP")}
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "WEBP": "webp"}


@cases("pictures")
def test_pictures(tmp_path: Path, rng: random.Random) -> None:
    kind = rng.choice(list(PICTURES))
    path = tmp_path / f"a.{SUFFIXES[kind]}"
    path.write_bytes(break_bytes(PICTURES[kind], rng))
    with refused(DataError, path):
        image = open_image(path, rng.choice((None, 8)))
        assert image.mode == "RGB"
        image.load()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("videos")
    formats = {
        "mp4": ("mpeg4", "yuv420p"),
        "avi": ("png", "rgb24"),
        "mkv": ("mpeg4", "yuv420p"),
        "mov": ("png", "rgb24"),
    }
    return {suffix: video(folder / f"a.{suffix}", *of) for suffix, of in formats.items()}


@cases("videos")
def test_videos(tmp_path: Path, videos: dict[str, bytes], rng: random.Random) -> None:
    suffix = rng.choice(list(videos))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(break_bytes(videos[suffix], rng))
    with refused(DataError, path):
        assert video_frames(path, fps=rng.choice((1.0, 4.0, 1e9)), cache=tmp_path / "cache")


def png(width: int, height: int) -> bytes:
    """A few bytes that say they are a huge picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def a_bomb(path: Path) -> None:
    path.write_bytes(png(60_000, 60_000))


def an_impossible_size(path: Path) -> None:
    path.write_bytes(png(2**31 - 1, 2**31 - 1))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_program(path: Path) -> None:
    """PostScript, which Pillow hands to Ghostscript."""
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [a_bomb, an_impossible_size, a_pipe, a_device, a_loop, a_program])
def test_what_must_not_be_opened_as_a_picture(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(DataError) as refusal:
        open_image(path)
    one_line(refusal.value, path)


def test_no_interpreter_is_started_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr("subprocess.Popen", fails)
    a_program(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="cannot identify"):
        open_image(tmp_path / "a.jpg")


def a_list_of_files(path: Path) -> None:
    """A script of FFmpeg's, which opens other files."""
    (path.parent / "b.avi").write_bytes(video(path.parent / "other.avi"))
    path.write_text("ffconcat version 1.0\nfile b.avi\n")


def a_list_of_streams(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://localhost:9/x.mp4\n#EXT-X-ENDLIST\n")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [a_pipe, a_device, a_loop, a_list_of_files, a_list_of_streams])
def test_what_must_not_be_opened_as_a_video(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    make(path)
    with pytest.raises(DataError) as refusal:
        video_frames(path, 1.0, tmp_path / "cache")
    one_line(refusal.value, path)


@pytest.mark.timeout(20)
def test_a_video_of_huge_frames_is_refused(
    tmp_path: Path, videos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _LIMITS["max_pixels"] == str(Image.MAX_IMAGE_PIXELS)
    for suffix, whole in videos.items():
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(whole)
        assert len(video_frames(path, 1.0, tmp_path / "cache")) == 2
        with monkeypatch.context() as here:
            here.setitem(_LIMITS, "max_pixels", "500")  # a frame has 512
            with pytest.raises(DataError) as refusal:
                video_frames(path, 1.0, tmp_path / "other")
        one_line(refusal.value, path)


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "~nobody-of-that-name/x", "loop/x", "loop"])
def test_a_path_that_cannot_be(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(DataError) as refusal:
        read_source(Path(path))
    one_line(refusal.value)
    assert main(["data", "check", path]) == 1
    assert "error: " in "".join(capsys.readouterr())


NAMES = (
    "\udcff",
    "\n",
    "\x1b[2J",
    "..",
    "...",
    "é",
    "\u202e",
    "x" * 240,
    "-rf",
    "$(id)",
    "%d",
    "a:b",
    "\\",
    "1" * 200,
    " ",
)


@cases("names on disk")
def test_names_on_disk(tmp_path_factory: pytest.TempPathFactory, capsys, rng: random.Random) -> None:
    """Whatever files are called, a folder is listed and its faults are printed."""
    root = tmp_path_factory.mktemp("names")
    for _ in range(3):
        folder = root / rng.choice(("", "a", "a/b", rng.choice(NAMES).replace("..", "x")))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{rng.choice(NAMES)}{rng.choice(('', '_1', '_2'))}.jpg"
        match rng.randrange(3):
            case 0 if not os.path.lexists(path):
                path.symlink_to(rng.choice((path, root, Path("/etc/passwd"), Path("nowhere"))))
            case 1 if not os.path.lexists(path):
                path.write_bytes(PICTURES["JPEG"])
            case 2 if not os.path.lexists(path.with_suffix(".mp4")):
                path.with_suffix(".mp4").write_bytes(b"no video")
    with refused(DataError):
        reading = read_frames(root, 2)
        assert all(frame.is_relative_to(root) for scene in reading.scenes for frame in scene.frames)
    print_report(check_source(root))
    capsys.readouterr().out.encode()
