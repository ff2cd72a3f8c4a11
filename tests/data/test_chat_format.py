"""The chat form of other trainers: what the assistant says is the description, or the labels where it is an answer."""

import json

import pytest
from layouts import flags, picture

from lvad.data.layouts import read_source
from lvad.errors import DataError
from lvad.taxonomy import load_taxonomy

IMAGES = {"images": ["a_0.jpg", "a_1.jpg"]}


def chat(*said: str) -> dict:
    roles = ["user", "assistant", "user", "assistant"] if len(said) > 1 else ["assistant"]
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)], **IMAGES}


@pytest.fixture
def scene_of(tmp_path):
    def scene(row, **options):
        for name in IMAGES["images"]:
            picture(tmp_path / name)
        (tmp_path / "chat.jsonl").write_text(json.dumps(row))
        (found,) = read_source(tmp_path / "chat.jsonl", **options).require().scenes
        return found

    return scene


def test_what_the_assistant_says_is_the_description(scene_of, tmp_path):
    scene = scene_of(chat("<image><image>What is to be seen?", "A red light."))
    assert (scene.id, scene.captions, scene.actions) == ("a_1", ("A red light.",), None)
    assert scene.frames == (tmp_path / "a_0.jpg", tmp_path / "a_1.jpg")
    assert scene_of({**chat("A red light."), "id": "x", "split": "test"})[::2] == ("x", "test", None, None, "")


def test_an_answer_gives_labels(scene_of):
    scene = scene_of(chat("What now?", "Action: forward, turn left. Reason: traffic light is green."))
    assert (scene.actions, scene.reasons, scene.captions) == ((1, 0, 1, 0), tuple(flags(2)), ())
    scene = scene_of(chat("What now?", "Action: wait. Reason: red light."), taxonomy=load_taxonomy("lanes"))
    assert (scene.actions, scene.reasons) == ((1, 0, 0), (1, 0, 0, 0, 0, 0))


def test_a_chat_without_an_answer_is_a_scene_without_labels(scene_of):
    row = {"messages": [{"role": "system", "content": "You drive."}, {"role": "user", "content": "What now?"}]}
    assert scene_of({**row, **IMAGES})[3:6] == (None, None, ())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (chat("<image>What?", "It is night."), "1 <image> in the messages, but 2 images; write <image> once per image"),
        (chat("a", "b", "c", "d"), "2 messages of the assistant; a scene has one"),
        (chat("a", "Action: fly. Reason: none."), "answer cannot be read: unknown action 'fly'; write names of the"),
        (chat("a", "Action: stop."), "no 'Reason:' part ''; .*'Reason: none.' where none holds"),
        ({**chat("a", "b"), "tools": []}, "unknown key 'tools'; use one of id, split, recording, messages, images"),
        ({"messages": [{"from": "human", "value": "a"}], **IMAGES}, "expected messages of role .*got {'from'"),
        ({"messages": "a", **IMAGES}, "expected messages of role .* got 'a'"),
        ({**chat("a", "b"), "images": "a.jpg"}, "frames must be a list of paths, got 'a.jpg'"),
    ],
)
def test_a_fault_is_named(scene_of, row, said):
    with pytest.raises(DataError, match=f"chat.jsonl, line 1: .*{said}|chat.jsonl, line 1: {said}"):
        scene_of(row)
