"""The page of ``lvad demo``: what is sent is bounded and read as data is, what is said is shown and never executed."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from lvad.demo.app import Demo, make_app
from lvad.demo.uploads import Limits

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """All elements in order, as (name, attributes), and the words."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def picture(size=(64, 48), colour=(200, 30, 30), format="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


LIMITS = Limits(max_mb=1.0, max_frames=4)


def client(*runs, hosts=("testserver",), limits=LIMITS):
    return TestClient(make_app(Demo(runs, limits), hosts))


def sent(client, *files, **fields):
    """POST files, each (name, content); returns the response."""
    parts = [("frames", (name, content)) for name, content in files]
    return client.post("/", data={"num_completions": "0", **fields}, files=parts or [("frames", ("", b""))])


def note(response):
    return re.search(r'<p id="note"[^>]*>(.*?)</p>', response.text, re.S).group(1)


def test_the_page_needs_nothing_from_elsewhere(quick_run):
    response = client(quick_run()).get("/")
    assert response.status_code == 200
    assert not re.search(r"https?://|@import|url\(", response.text)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert len(Page(response.text).all("script")) == 1


def test_an_upload_is_described_decided_and_scored(quick_run):
    run = quick_run()
    text = sent(client(run), ("a.png", picture()), num_completions="3", temperature="1.5", text="my own").text
    page = Page(text)
    assert "quick sees 1 frames." in page.words
    arrows = [item for item in page.all("li") if "title" in item]
    assert [item["title"] for item in arrows] == ["forward: said", "stop: not said", "left: not said", "right: said"]
    assert [item.get("class") for item in arrows] == ["said", None, None, "said"]
    assert len(page.all("polygon")) == 4
    assert all(f"{name} {p}" in page.words for name, p in (("forward", "0.90"), ("right", "0.60")))
    assert page.words.index("road is clear") < page.words.index("follow traffic")  # said, then the most probable other
    assert "traffic sign" not in page.words
    assert run.asked == [(3, 1.5)]
    assert page.words.index("sample 2") < page.words.index("sample 1") < page.words.index("sample 0")
    assert "my own" in page.words
    assert "length 0.500" in page.words


def test_frames_are_taken_in_the_order_of_their_names(quick_run):
    seen = []

    class Watching(quick_run):
        def describe(self, frames):
            seen.extend(path.name for path in frames)
            return "seen"

    files = [(f"f_{i}.png", picture()) for i in (10, 2, 1)]
    assert sent(client(Watching()), *files).status_code == 200
    assert seen == ["f_1.png", "f_2.png", "f_10.png"]


def test_two_runs_stand_side_by_side(quick_run):
    runs = quick_run("first"), quick_run("second", ("describe",))
    page = Page(sent(client(*runs), ("a.png", picture())).text)
    assert len(page.all("article")) == 2
    assert "first sees 1 frames." in page.words
    assert "second sees 1 frames." in page.words
    assert "does not decide on actions, score texts." in page.words


def test_an_example_is_taken_without_an_upload(quick_run):
    response = client(quick_run()).post("/", data={"num_completions": "0", "example": "1"}, files={"frames": ("", b"")})
    assert "quick sees 2 frames." in response.text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "nothing was chosen"),
        ([("a.txt", b"hello")], "a.txt is neither a picture nor a video; give one of .avi, "),
        ([("a.png", picture()[:60])], "a.png: image cannot be decoded"),
        ([("a.png", b"%!PS-Adobe-3.0")], "a.png: image cannot be decoded"),
        ([("a.mp4", b"no video")], "a.mp4: video cannot be decoded"),
        ([("a.mp4", b""), ("b.png", picture())], "a.mp4 is a video among 2 files; give one video, or pictures only"),
        ([("a.png", picture()), ("b.png", picture((32, 32)))], "b.png, scene &#39;b&#39;: is 32x32, but a.png of the"),
        ([(f"{i}.png", picture()) for i in range(5)], "Too many files. Maximum number of files is 4."),
        ([("../../a.png", picture()[:60])], "a.png: image cannot be decoded"),
        ([("<b>.png", picture()[:60])], "_b_.png: image cannot be decoded"),
    ],
)
def test_what_cannot_be_used_is_named_on_the_page(quick_run, files, message):
    response = sent(client(quick_run()), *files)
    assert response.status_code in (413, 422)
    assert message in note(response)
    assert "/tmp" not in note(response)
    assert "Traceback" not in response.text


def test_a_picture_beyond_the_limit_of_pixels_is_refused(quick_run, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "DecompressionBomb" in note(sent(client(quick_run()), ("a.png", picture())))


def test_a_video_that_is_too_long_is_refused(quick_run, tmp_path):
    import av
    import numpy as np

    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(6):
            picture = np.full((48, 64, 3), 40 * i, dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    run = quick_run()
    refused = sent(client(run), ("long.mp4", path.read_bytes()))
    assert "long.mp4: video has more than 4 pictures at 1 a second; cut it shorter" in note(refused)
    read = sent(client(run, limits=Limits(1.0, 6)), ("long.mp4", path.read_bytes()))
    assert "quick sees 2 frames." in read.text


def test_an_upload_that_is_too_large_is_refused(quick_run):
    response = sent(client(quick_run()), ("a.png", b"0" * (2**20 + 1)))
    assert response.status_code == 413
    assert "the upload holds 1.0 MB, allowed are 1; send less, or raise --max_mb" in note(response)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_completions": "1000"}, "the number of samples must be a number from 0 to 16, got &#39;1000&#39;"),
        ({"temperature": "nan"}, "temperature must be a number from 0.01 to 5"),
        ({"text": "a" * 1001}, "a text to score has at most 1000 characters"),
        ({"example": "99"}, "example must be a number from 0 to 3"),
    ],
)
def test_fields_out_of_bounds_are_named(quick_run, fields, message):
    assert message in note(sent(client(quick_run()), ("a.png", picture()), **fields))


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data"])
def test_what_is_no_form_is_refused(quick_run, content_type):
    response = client(quick_run()).post("/", content=b"x", headers={"Content-Type": content_type})
    assert response.status_code == 413
    assert "the page&#39;s own form" in note(response)


def test_nothing_that_is_said_becomes_part_of_the_page(quick_run):
    class Hostile(quick_run):
        def describe(self, frames):
            return HOSTILE + "\ud800"

    page = Page(sent(client(Hostile(HOSTILE)), ("a.png", picture()), text=HOSTILE).text)
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert page.words.count(HOSTILE) >= 3


def test_another_hosts_name_is_refused(quick_run):
    """A page elsewhere whose name is made to lead here could read the answers otherwise."""
    assert client(quick_run(), hosts=["127.0.0.1"]).get("/").status_code == 400


def test_uploads_leave_no_file(quick_run, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for content in (picture(), b"broken"):
        sent(client(quick_run()), ("a.png", content))
    assert [*Path(tmp_path).iterdir()] == []


def test_a_fault_of_lvads_own_is_no_message(quick_run):
    class Broken(quick_run):
        def describe(self, frames):
            raise KeyError("a fault")

    with pytest.raises(KeyError):
        sent(client(Broken()), ("a.png", picture()))
