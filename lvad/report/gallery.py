"""``gallery.html``: answered scenes on one page that needs no other file and no network.

Ids and texts may hold anything. The template escapes all of them, and the page's ``Content-Security-Policy`` with the
hashes of its one script and one style lets nothing else run or load.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from torch import Tensor

from lvad.report.answer_picture import Explanation, action_words, arrows, explanations, outcomes, true_words
from lvad.report.html_pages import STYLE, TEMPLATES, InlinedPicture, content_hash, inline_frames
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import AnsweredScene

_FILTERS: Final = {
    "all": "all",
    "wrong-actions": "wrong actions",
    "wrong-reasons": "wrong reasons",
    "parse-failures": "parse failures",
}
_MAX_CHARS: Final = 1000


class _Arrow(NamedTuple):
    """An action with its arrow, its probability, and whether the answer is right about it."""

    name: str
    points: str
    """The corners of the arrow in a square of side 1, as SVG has them."""
    words: str
    mark: str
    is_said: bool


class _Card(NamedTuple):
    """The content of one scene's card on the page."""

    id: str
    tags: list[str]
    frames: list[InlinedPicture]
    arrows: list[_Arrow]
    truth: str
    description: str
    reasons: list[Explanation]
    answer: str
    is_valid: bool


def write_gallery(
    path: Path,
    answered: Iterable[AnsweredScene],
    frames: Iterable[Tensor],
    title: str,
    summary: Mapping[str, float],
    taxonomy: Taxonomy = BDD_OIA,
) -> Path:
    """Write a page with a card per scene: frames, actions, description, explanations.

    Args:
        path: a ``.html``, replaced in one step; its folder is made if missing.
        answered: N scenes, taken one by one.
        frames: uint8[M, 3, H, W] for each of them, taken one by one, so that the page may exceed the memory.
        title: of the page.
        summary: numbers of the evaluation, shown beneath the title.
        taxonomy: what the labels are called.

    Returns:
        The path.

    Raises:
        ValueError: if there are more of one than of the other, or frames of another kind; the page stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp")
    try:
        # A lone surrogate, which a model can say and UTF-8 cannot hold, becomes a character reference.
        with part.open("w", encoding="utf-8", errors="xmlcharrefreplace", newline="\n") as page:
            cards = (_card(scene, shown, taxonomy) for scene, shown in zip(answered, frames, strict=True))
            page.writelines(_pieces(title, summary, cards))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def tags(scene: AnsweredScene) -> list[str]:
    """List the filters that show a scene besides ``all``; a scene without labels is never wrong."""
    found = []
    if scene.true_actions is not None and scene.actions != scene.true_actions:
        found.append("wrong-actions")
    if scene.true_reasons is not None and scene.reasons != scene.true_reasons:
        found.append("wrong-reasons")
    if not scene.is_valid:
        found.append("parse-failures")
    return found


def _pieces(title: str, summary: Mapping[str, float], cards: Iterable[_Card]) -> Iterator[str]:
    """Yield the page piece by piece, so that no more than one card is in memory."""
    # Read as it stands: it is no template.
    script = (Path(__file__).parent / "templates" / "gallery.js").read_text(encoding="utf-8")
    return TEMPLATES.get_template("gallery.html").generate(
        title=title,
        numbers=" · ".join(f"{name} {value:.4g}" for name, value in summary.items()),
        filters=_FILTERS,
        policy=f"default-src 'none'; img-src data:; style-src {content_hash(STYLE)}; script-src {content_hash(script)}",
        style=STYLE,
        script=script,
        cards=cards,
    )


def _card(scene: AnsweredScene, frames: Tensor, taxonomy: Taxonomy) -> _Card:
    return _Card(
        id=_shown(scene.id),
        tags=tags(scene),
        frames=list(inline_frames(frames)),
        arrows=_arrows(scene, taxonomy),
        truth=true_words(scene, taxonomy),
        description=_shown(scene.description) if scene.description else "",
        reasons=explanations(scene, taxonomy),
        answer=_shown(scene.text),
        is_valid=scene.is_valid,
    )


def _arrows(scene: AnsweredScene, taxonomy: Taxonomy) -> list[_Arrow]:
    marks = outcomes(scene.actions, scene.true_actions)
    rows = zip(taxonomy.actions, arrows(taxonomy), action_words(scene, taxonomy), marks, scene.actions, strict=True)
    return [
        _Arrow(action.name, " ".join(f"{x:.3g},{y:.3g}" for x, y in polygon), words, mark, bool(is_said))
        for action, polygon, words, mark, is_said in rows
    ]


def _shown(text: str) -> str:
    """Cut a text that is too long for a page."""
    return (text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]} ...") or "(empty)"
