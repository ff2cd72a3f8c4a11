"""The probes of an audit: texts that a reward must score lower than the right text of a scene."""

from typing import Final, NamedTuple

import torch

from lvad.audit.right_texts import RightTexts
from lvad.data.text_corruption import shuffle
from lvad.taxonomy import Taxonomy
from lvad.text import render
from lvad.types import UNLABELLED

NEUTRAL: Final = "A picture taken from a car on a street."
"""A text that is true of every scene and tells nothing about it."""
MIN_LONG_WORDS: Final = 81
"""More than the 77 tokens that a CLIP reads, whatever its tokenizer."""


class Probe(NamedTuple):
    """A kind of text that a reward is tested with beside the right text."""

    says: str
    """Description of the text."""
    needs: str
    """Description of the scenes that it can be tested on."""


_ANY: Final = "a right text"
_SIDE: Final = "a right text that names a side, its mirror image known to be wrong"
PROBES: Final = {
    "other_scene": Probe("the right text of another scene, wrong here", "another scene whose right text is wrong here"),
    "all_true": Probe("all that is true at once (must beat other_scene)", "labels, and a text of another scene"),
    "all_21": Probe("all reasons at once, of BDD-OIA 21", _ANY),
    "empty": Probe("nothing", _ANY),
    "digits": Probe("123", _ANY),
    "letters": Probe("abc", _ANY),
    "constant": Probe("one neutral sentence for all scenes", _ANY),
    "repeated": Probe("the right text three times", _ANY),
    "shuffled": Probe("the words of the right text in another order", "a right text of two different words"),
    "overlong": Probe("the right text, then those of other scenes, over 80 words", "a right text of 80 words or fewer"),
    "flipped_image": Probe("the right text, the frames mirrored", _SIDE),
    "swapped_sides": Probe("the right text with left and right exchanged", _SIDE),
}
"""Every probe must lose to the right text, but for all_true, which must beat other_scene."""
FLIPPED: Final = "flipped_image"
GIBBERISH: Final = ("empty", "digits", "letters", "constant")


def probe_texts(right: RightTexts, generator: torch.Generator) -> dict[str, list[str | None]]:
    """Build the texts of all probes.

    Args:
        right: the right texts of N scenes.
        generator: chooses the other scenes and the orders of words.

    Returns:
        For each probe N texts, None where the scene does not qualify.
    """
    partners = right.swap_partners(generator)
    swapped = [_swapped(right, i) for i in range(len(right.texts))]
    found: dict[str, list[str | None]] = {
        "other_scene": [None if j is None else right.texts[j] for j in partners],
        "all_true": [_all_true(right, i) for i in range(len(right.texts))],
        "all_21": [_everything(right.source, right.scenes.taxonomy) for _ in right.texts],
        "empty": ["" for _ in right.texts],
        "digits": ["123" for _ in right.texts],
        "letters": ["abc" for _ in right.texts],
        "constant": [NEUTRAL for _ in right.texts],
        "repeated": [" ".join([text] * 3) for text in right.texts],
        "shuffled": [_shuffled(text, generator) for text in right.texts],
        "overlong": _overlong(right.texts, generator),
        "flipped_image": [text if other else None for text, other in zip(right.texts, swapped, strict=True)],
        "swapped_sides": swapped,
    }
    assert found.keys() == PROBES.keys()
    has_text = [bool(text.strip()) for text in right.texts]
    return {
        name: [text if has else None for text, has in zip(texts, has_text, strict=True)]
        for name, texts in found.items()
    }


def _swapped(right: RightTexts, scene: int) -> str | None:
    text = right.texts[scene]
    other = right.mirrored(text)
    return other if other != text and right.is_wrong(other, scene, wholly=False) else None


def _all_true(right: RightTexts, scene: int) -> str | None:
    """Write all labels of a scene as an answer, or as a list of reasons where the right texts are free descriptions."""
    actions, reasons = right.scenes.actions[scene].tolist(), right.scenes.reasons[scene].tolist()
    needed = {"action": [actions], "output": [actions, reasons]}.get(right.source, [reasons])
    if any(UNLABELLED in labels or not any(labels) for labels in needed):
        return None
    names = right.scenes.taxonomy
    if right.source in ("action", "output"):
        return render(actions, reasons if right.source == "output" else None, names)
    return _join(reasons, names)


def _everything(source: str, taxonomy: Taxonomy) -> str:
    if source in ("action", "output"):
        return render((1,) * taxonomy.num_actions, (1,) * taxonomy.num_reasons, taxonomy)
    return _join([1] * taxonomy.num_reasons, taxonomy)


def _join(reasons: list[int], taxonomy: Taxonomy) -> str:
    return ", ".join(text for text, flag in zip(taxonomy.reason_texts, reasons, strict=True) if flag)


def _shuffled(text: str, generator: torch.Generator) -> str | None:
    words = text.split()
    if len(set(words)) < 2:
        return None
    while (found := shuffle(words, generator)) == words:
        pass
    return " ".join(found)


def _overlong(texts: list[str], generator: torch.Generator) -> list[str | None]:
    """Append other scenes' texts to each text, at least one, until it is too long."""
    ring = [i for i in torch.randperm(len(texts), generator=generator).tolist() if texts[i].strip()]
    found: list[str | None] = [None] * len(texts)
    for place, i in enumerate(ring):
        words, step = texts[i].split(), 0
        # Of a right text that is too long itself a CLIP would read the same words.
        if len(ring) < 2 or len(words) >= MIN_LONG_WORDS:
            continue
        while len(words) < MIN_LONG_WORDS:
            step += 1
            words += texts[ring[(place + step) % len(ring)]].split()
        found[i] = " ".join(words)
    return found
