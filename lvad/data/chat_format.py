"""Convert lines of the chat form that ms-swift and LLaMA-Factory read to lines of lvad's own form.

    {"messages": [{"role": "user", "content": "<image>What now?"}, {"role": "assistant", "content": "It is night."}],
     "images": ["a.jpg"]}

The messages of user and system are not used: lvad asks its own question, the same for every scene.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lvad.errors import DataError
from lvad.taxonomy import Taxonomy
from lvad.text import Flaw, parse

CHAT_KEYS: Final = ("messages", "images")
_IMAGE: Final = "<image>"
_ROLES: Final = ("system", "user", "assistant")


def is_chat(row: Mapping[str, Any]) -> bool:
    """Whether a line has the chat form."""
    return "messages" in row


def from_chat(row: Mapping[str, Any], path: Path, where: str, taxonomy: Taxonomy) -> dict[str, Any]:
    """Convert a line to lvad's own form.

    The assistant's message gives the labels where it is an answer, which begins with "Action:"; else it is the
    description. A line without such a message is a scene without labels.

    Raises:
        DataError: for messages of another form, an answer that cannot be read, or images that fit no message.
    """
    own = {key: value for key, value in row.items() if key not in CHAT_KEYS}
    own["frames"] = row.get("images", [])
    said = _messages(row["messages"], path, where)
    asked = sum(text.count(_IMAGE) for role, text in said if role != "assistant")
    if isinstance(own["frames"], list) and asked not in (0, len(own["frames"])):
        problem = f"{asked} {_IMAGE} in the messages, but {len(own['frames'])} images"
        raise DataError.at(path, where, problem, f"write {_IMAGE} once per image, or not at all")
    answers = [text for role, text in said if role == "assistant"]
    if len(answers) > 1:
        problem = f"{len(answers)} messages of the assistant"
        raise DataError.at(path, where, problem, "a scene has one: make a line of each, with an id of its own")
    return own | (_labels_or_text(answers[0], path, where, taxonomy) if answers else {})


def _messages(messages: object, path: Path, where: str) -> list[tuple[str, str]]:
    """Check the messages, and return role and content of each."""
    said = []
    for message in messages if isinstance(messages, list) else [messages]:
        match message:
            case {"role": str(role), "content": str(content), **rest} if role in _ROLES and not rest:
                said.append((role, content))
            case _:
                problem = f"expected messages of role ({', '.join(_ROLES)}) and content (text), got {message!r:.80}"
                raise DataError.at(path, where, problem, "correct the line")
    return said


def _labels_or_text(text: str, path: Path, where: str, taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the labels where a text is an answer, else the description."""
    answer = parse(text, taxonomy)
    if any(problem.flaw is Flaw.NO_ACTION for problem in answer.problems):
        return {"text": text}
    if answer.problems:
        flaw, words = answer.problems[0]
        problem = f"answer cannot be read: {flaw.value} {words!r:.80}"
        remedy = f"write names of the label set {taxonomy.name!r}, or give another as taxonomy"
        raise DataError.at(path, where, problem, f"{remedy}; 'Reason: none.' where none holds")
    return {
        "actions": [name for name, flag in zip(taxonomy.action_names, answer.actions, strict=True) if flag],
        "reasons": [name for name, flag in zip(taxonomy.reason_texts, answer.reasons, strict=True) if flag],
    }
