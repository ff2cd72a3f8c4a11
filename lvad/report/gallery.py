"""Answered scenes on one HTML page that needs no other file and no network. Drawing only, no training state.

Ids and texts are anything a model or a folder of strangers may say: all are escaped, and the page's own policy
(a ``Content-Security-Policy`` with the hashes of its one script and one style) lets nothing else run or load.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Final

from torch import Tensor

from lvad.report.answer_picture import action_words, arrows, explanations, outcomes, true_words
from lvad.report.pages import STYLE, content_hash, inlined
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import AnsweredScene

_FILTERS: Final = {
    "all": "all",
    "wrong-actions": "wrong actions",
    "wrong-reasons": "wrong reasons",
    "parse-failures": "parse failures",
}
_MAX_CHARS: Final = 1000

_SCRIPT: Final = """
const cards = [...document.querySelectorAll('.card')], buttons = [...document.querySelectorAll('nav button')];
const has = (card, name) => name === 'all' || card.dataset.tags.split(' ').includes(name);
function show() {
  const wanted = location.hash.slice(1), name = buttons.some(b => b.dataset.show === wanted) ? wanted : 'all';
  cards.forEach(card => { card.hidden = !has(card, name); });
  buttons.forEach(b => b.setAttribute('aria-pressed', b.dataset.show === name));
  document.getElementById('none').hidden = cards.some(card => !card.hidden);
}
buttons.forEach(b => {
  b.append(` (${cards.filter(card => has(card, b.dataset.show)).length})`);
  b.onclick = () => { location.hash = b.dataset.show; show(); };
});
addEventListener('hashchange', show);
show();
"""


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
            page.write(_head(title, summary))
            for scene, pictures in zip(answered, frames, strict=True):
                page.writelines(_card(scene, pictures, taxonomy))
            page.write(f'</main>\n<p id="none" hidden>No scene of this kind.</p>\n<script>{_SCRIPT}</script>\n')
            page.write("</body>\n</html>\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def tags(scene: AnsweredScene) -> list[str]:
    """The filters that show a scene, besides ``all``; one without labels is never wrong."""
    found = []
    if scene.true_actions is not None and scene.actions != scene.true_actions:
        found.append("wrong-actions")
    if scene.true_reasons is not None and scene.reasons != scene.true_reasons:
        found.append("wrong-reasons")
    if not scene.is_valid:
        found.append("parse-failures")
    return found


def _head(title: str, summary: Mapping[str, float]) -> str:
    numbers = " · ".join(f"{name} {value:.4g}" for name, value in summary.items())
    buttons = "".join(f'<button type="button" data-show="{key}">{name}</button>\n' for key, name in _FILTERS.items())
    policy = f"default-src 'none'; img-src data:; style-src {content_hash(STYLE)}; script-src {content_hash(_SCRIPT)}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{escape(numbers)}</p>
<p class="legend">Filled arrow: the model calls the action possible. TP: said and true. FP: said, not true.
FN: true, not said. P: said, truth unknown. Numbers: probabilities.</p>
<nav>
{buttons}</nav>
<main>
"""


def _card(scene: AnsweredScene, frames: Tensor, taxonomy: Taxonomy) -> Iterator[str]:
    yield f'<article class="card" data-tags="{" ".join(tags(scene))}">\n<h2>{_text(scene.id)}</h2>\n'
    # Four frames, a common number, would stand as three and one.
    yield f'<div class="frames{" four" if len(frames) == 4 else ""}">'
    yield from _images(frames)
    yield '</div>\n<ul class="arrows">\n'
    marks = outcomes(scene.actions, scene.true_actions)
    rows = zip(taxonomy.actions, arrows(taxonomy), action_words(scene, taxonomy), marks, strict=True)
    for i, (action, polygon, words, mark) in enumerate(rows):
        points = " ".join(f"{x:.3g},{y:.3g}" for x, y in polygon)
        shape = f'<svg viewBox="0 0 1 1" aria-hidden="true"><polygon points="{points}"/></svg>'
        said = "said" if scene.actions[i] else "not said"
        badge = f" <b>{mark}</b>" if mark in ("FP", "FN") else ""
        kind = f"{'said ' if scene.actions[i] else ''}{mark}"
        yield f'<li class="{kind}" title="{escape(action.name)}: {said}">{shape}{escape(words)}{badge}</li>\n'
    yield f'</ul>\n<p class="true">{escape(true_words(scene, taxonomy))}</p>\n'
    if scene.description:
        yield f"<p>{_text(scene.description)}</p>\n"
    yield '<ul class="reasons">\n'
    for row in explanations(scene, taxonomy):
        yield f'<li class="{row.mark}"><b>{row.mark}</b>{escape(row.text)}</li>\n'
    yield "</ul>\n"
    flaw = "" if scene.is_valid else ' open class="flaw"'
    note = "answer" if scene.is_valid else "answer with a flaw"
    yield f"<details{flaw}><summary>{note}</summary><p>{_text(scene.text)}</p></details>\n</article>\n"


def _images(frames: Tensor) -> Iterator[str]:
    """M ``img`` elements with their pixels inside."""
    for i, picture in enumerate(inlined(frames), start=1):
        size = f'width="{picture.width_px}" height="{picture.height_px}"'
        yield f'<img alt="frame {i} of {len(frames)}" {size} decoding="async" src="{picture.address}">'


def _text(text: str) -> str:
    """Escaped, and no longer than a page can bear."""
    return escape(text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]} ...") or "(empty)"
