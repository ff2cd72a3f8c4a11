"""Whatever happens to the files, the readers either read them or raise a ``DataError``."""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import GO, GREEN, RED, STOP, gt, lastframe

from lvad.data.check import check_source
from lvad.data.layouts import Layout
from lvad.data.source import Source
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.integers(10**30, 10**31),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["../a.jpg", "/a.jpg", "a.jpg", "x" * 5000, "\ud800", "a\0", "..", ".", "~"]),
)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3))


@st.composite
def mangled(draw: st.DrawFn, content: Any) -> Any:
    """The content with a few places replaced, removed or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 4))):
        node = content
        while isinstance(node, dict | list) and node:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            match draw(st.sampled_from(["replace", "remove", "double"])):
                case "replace":
                    node[key] = draw(VALUES)
                case "remove":
                    del node[key]
                case "double" if isinstance(node, list):
                    node.append(copy.deepcopy(node[key]))
            break
    return content


@st.composite
def mangled_bytes(draw: st.DrawFn, content: Any) -> bytes:
    data = bytearray(json.dumps(draw(mangled(content)) if draw(st.booleans()) else content).encode())
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        data[start:end] = draw(st.binary(max_size=4) | st.sampled_from([b"[", b"]", b'"', b",", b"NaN", b"1e999"]))
    return bytes(data)


def survives(root: Path, layout: Layout) -> None:
    report = check_source(root, layout)
    try:
        scenes = Source(layout, str(root)).read(BDD_OIA).scenes
    except DataError:
        assert report.errors or "images not checked" in report.warnings[-1]
    else:
        assert report.errors == []
        for scene in scenes:
            assert len(scene.actions or ()) == 4
            assert len(scene.reasons or ()) == 21
            assert all(frame.resolve().is_relative_to(root.resolve()) for frame in scene.frames)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_lastframe(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = lastframe(Path(folder), "train", [("a_1.jpg", GO, GREEN), ("b.jpg", [*STOP, 0], RED)])
        (root / "train_scenes.jsonl").write_text('{"id": "a", "captions": ["x"], "facts": {"light": "green"}}')
        for name in data.draw(st.sets(st.sampled_from(["actions", "reasons", "scenes"]), min_size=1)):
            path = next(root.glob(f"train_*{name}.json*"))
            path.write_bytes(data.draw(mangled_bytes(json.loads(path.read_text()))))
        survives(root, "lastframe")


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_gt_4a_21r(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = gt(Path(folder), "train", {"a": (GO, GREEN), "b": (STOP, RED)})
        path = root / "gt_4a_21r_train.json"
        path.write_bytes(data.draw(mangled_bytes(json.loads(path.read_text()))))
        survives(root, "gt_4a_21r")


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_pictures(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = gt(Path(folder), "train", {"a": (GO, GREEN)})
        path = root / "images" / "a.jpg"
        whole = path.read_bytes()
        start = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:start] + data.draw(st.binary(max_size=30)) + whole[start + 5 :])
        check_source(root)
