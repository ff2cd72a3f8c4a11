"""Pictures of single answered scenes, after the paper's Fig. 4. They read no training state.

Departures from the figure:
    1. One row of arrows instead of one for the truth and one for the prediction; FP or FN beside an arrow says
       where they differ.
    2. Explanations carry TP, FP or FN in letters as well, since colour alone is not enough.
"""

from collections.abc import Sequence
from math import cos, pi, sin
from typing import Final, NamedTuple

from PIL import Image, ImageDraw
from torch import Tensor

# The strip of frames and the wrapping of text are those of the run's other pictures.
from lvad.report.scene_pictures import WIDTH_PX, draw_frame_strip, line_height_px, load_font, wrap_text
from lvad.taxonomy import BDD_OIA, NONE, Taxonomy
from lvad.types import AnsweredScene

ARROW_PX: Final = 56
CELL_PX: Final = 128
GREEN: Final = (0, 122, 61)
RED: Final = (190, 30, 45)
GREY: Final = (105, 110, 118)
PAPER: Final = (255, 255, 255)

_INK: Final = (28, 30, 34)
_COLOURS: Final = {"TP": GREEN, "FP": RED, "FN": GREY, "P": _INK}
_MARGIN_PX: Final = 16
_GAP_PX: Final = 10
_TEXT_PX: Final = 17
_SMALL_PX: Final = 13
_BADGE_PX: Final = (30, 19)
_OVERSAMPLING: Final = 4  # Pillow draws polygons with stairs; a smaller copy of a larger one has none

_UP: Final = ((0.5, 0.04), (0.95, 0.5), (0.69, 0.5), (0.69, 0.96), (0.31, 0.96), (0.31, 0.5), (0.05, 0.5))
_OCTAGON: Final = (
    (0.3, 0.04),
    (0.7, 0.04),
    (0.96, 0.3),
    (0.96, 0.7),
    (0.7, 0.96),
    (0.3, 0.96),
    (0.04, 0.7),
    (0.04, 0.3),
)
_DOT: Final = tuple((0.5 + 0.46 * cos(i * pi / 16), 0.5 + 0.46 * sin(i * pi / 16)) for i in range(32))
_SYMBOLS: Final = {
    "dot": _DOT,
    "up": _UP,
    "octagon": _OCTAGON,
    "left": tuple((y, x) for x, y in _UP),
    "right": tuple((1 - y, x) for x, y in _UP),
}


def arrows(taxonomy: Taxonomy = BDD_OIA) -> list[tuple[tuple[float, float], ...]]:
    """Return one polygon per action in a square of side 1, y downwards; each covers the centre."""
    return [_SYMBOLS[action.symbol] for action in taxonomy.actions]


class Explanation(NamedTuple):
    """A reason that the answer names, or that it should have named."""

    mark: str
    """``TP``, ``FP`` (said, not true) or ``FN`` (true, not said); ``P`` (said) without labels."""
    text: str


def outcomes(said: Sequence[int], true: Sequence[int] | None) -> list[str]:
    """Mark each label ``TP``, ``FP``, ``FN`` or ``TN``; without labels ``P`` (said) or ``N``."""
    if true is None:
        return ["P" if flag else "N" for flag in said]
    names = {(1, 1): "TP", (1, 0): "FP", (0, 1): "FN", (0, 0): "TN"}
    return [names[pair] for pair in zip(said, true, strict=True)]


def explanations(scene: AnsweredScene, taxonomy: Taxonomy = BDD_OIA) -> list[Explanation]:
    """List the true positive reasons, then the false positive ones, then the false negative ones."""
    marks = outcomes(scene.reasons, scene.true_reasons)
    found = []
    for i, mark in enumerate(marks):
        probability = f"  ({scene.reason_probabilities[i]:.2f})" if scene.reason_probabilities else ""
        found.append(Explanation(mark, taxonomy.reason_texts[i] + probability))
    return [row for mark in _COLOURS for row in found if row.mark == mark]


def true_words(scene: AnsweredScene, taxonomy: Taxonomy = BDD_OIA) -> str:
    """Write the true actions in words."""
    if scene.true_actions is None:
        return "true actions: unknown"
    names = [name for name, flag in zip(taxonomy.action_names, scene.true_actions, strict=True) if flag]
    return f"true actions: {', '.join(names) or NONE}"


def action_words(scene: AnsweredScene, taxonomy: Taxonomy = BDD_OIA) -> list[str]:
    """Write the names of the A actions, each with its probability where there is one."""
    probabilities, names = scene.action_probabilities, taxonomy.action_names
    return [f"{name} {p:.2f}" for name, p in zip(names, probabilities, strict=True)] if probabilities else [*names]


def arrow_row(scene: AnsweredScene, taxonomy: Taxonomy = BDD_OIA) -> Image.Image:
    """Draw one arrow per action: green where the answer calls the action possible, an outline elsewhere.

    Args:
        scene: where what is said and what is true differ, FP or FN stands beside the arrow.
        taxonomy: what the actions are called.

    Returns:
        An RGB picture, ``CELL_PX`` wide for each arrow, which stands in the upper middle of its cell.
    """
    row = Image.new("RGB", (CELL_PX * taxonomy.num_actions, ARROW_PX + line_height_px(_TEXT_PX) + 2), PAPER)
    draw = ImageDraw.Draw(row)
    rows = zip(
        arrows(taxonomy), action_words(scene, taxonomy), outcomes(scene.actions, scene.true_actions), strict=True
    )
    for i, (polygon, words, mark) in enumerate(rows):
        left = i * CELL_PX + (CELL_PX - ARROW_PX) // 2
        row.paste(_arrow(polygon, bool(scene.actions[i])), (left, 0))
        draw.text((left + ARROW_PX // 2, ARROW_PX + 2), words, _INK, load_font(_TEXT_PX), anchor="ma")
        if mark in ("FP", "FN"):
            _badge(draw, mark, left + ARROW_PX + 3, 0)
    return row


def draw_answer(scene: AnsweredScene, frames: Tensor, taxonomy: Taxonomy = BDD_OIA) -> Image.Image:
    """Draw frames, actions, description and explanations of one scene.

    Args:
        scene: what was said and what is true.
        frames: uint8[M, 3, H, W].
        taxonomy: what the labels are called.

    Returns:
        An RGB picture, ``WIDTH_PX`` wide and as high as its content; long texts end in an ellipsis.

    Raises:
        ValueError: for other frames.
    """
    inner = WIDTH_PX - 2 * _MARGIN_PX
    parts = [
        _paragraph(scene.id, _TEXT_PX, _INK, inner, 1),
        draw_frame_strip(frames, inner),
        arrow_row(scene, taxonomy),
        _paragraph(true_words(scene, taxonomy), _TEXT_PX, _INK, inner, 1),
    ]
    if scene.description:
        parts.append(_paragraph(scene.description, _TEXT_PX, _INK, inner, 4))
    parts.append(_explanation_rows(explanations(scene, taxonomy), inner))
    if not scene.is_valid:
        parts.append(_paragraph(f"Answer with a flaw: {scene.text or '(empty)'}", _SMALL_PX, RED, inner, 3))
    height = 2 * _MARGIN_PX + sum(part.height for part in parts) + _GAP_PX * (len(parts) - 1)
    page = Image.new("RGB", (WIDTH_PX, height), PAPER)
    y = _MARGIN_PX
    for part in parts:
        page.paste(part, (_MARGIN_PX, y))
        y += part.height + _GAP_PX
    return page


def _arrow(polygon: Sequence[tuple[float, float]], is_said: bool) -> Image.Image:
    side = ARROW_PX * _OVERSAMPLING
    large = Image.new("RGB", (side, side), PAPER)
    points = [(x * side, y * side) for x, y in polygon]
    if is_said:
        ImageDraw.Draw(large).polygon(points, fill=GREEN)
    else:
        # A line with round joints: the outline of Pillow's polygon() leaves its corners open.
        ImageDraw.Draw(large).line([*points, *points[:2]], fill=GREY, width=3 * _OVERSAMPLING // 2, joint="curve")
    return large.resize((ARROW_PX, ARROW_PX), Image.Resampling.LANCZOS)


def _badge(draw: ImageDraw.ImageDraw, mark: str, x: int, y: int) -> None:
    width, height = _BADGE_PX
    draw.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=4, fill=_COLOURS[mark])
    draw.text((x + width / 2, y + height / 2), mark, PAPER, load_font(_SMALL_PX), anchor="mm")


def _paragraph(text: str, size_px: int, colour: tuple[int, int, int], width_px: int, max_lines: int) -> Image.Image:
    lines = wrap_text(text, size_px, width_px, max_lines)
    part = Image.new("RGB", (width_px, len(lines) * line_height_px(size_px)), PAPER)
    draw = ImageDraw.Draw(part)
    for i, line in enumerate(lines):
        draw.text((0, i * line_height_px(size_px)), line, colour, load_font(size_px))
    return part


def _explanation_rows(rows: Sequence[Explanation], width_px: int) -> Image.Image:
    if not rows:
        return _paragraph("no explanation, none expected or known", _TEXT_PX, GREY, width_px, 1)
    row_px = line_height_px(_TEXT_PX) + 4
    part = Image.new("RGB", (width_px, len(rows) * row_px), PAPER)
    draw = ImageDraw.Draw(part)
    for i, (mark, text) in enumerate(rows):
        _badge(draw, mark, 0, i * row_px + 1)
        draw.text((_BADGE_PX[0] + _GAP_PX, i * row_px), text, _COLOURS[mark], load_font(_TEXT_PX))
    return part
