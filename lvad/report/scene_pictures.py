"""Pictures of scenes: frames with completions or lines of text beneath. They read no training state."""

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lvad.types import SceneSamples

WIDTH_PX: Final = 960

_MARGIN_PX: Final = 16
_GAP_PX: Final = 8
_TEXT_PX: Final = 17
_SMALL_PX: Final = 13
_NUMBER_PX: Final = 84  # a column of numbers such as "-0.123", and its heading
_MAX_FRAME_HEIGHT_PX: Final = 320
_MAX_COLUMNS: Final = 4
_MAX_LINES: Final = 4

_PAPER: Final = (255, 255, 255)
_INK: Final = (28, 30, 34)
_FAINT: Final = (112, 117, 125)
_RULE: Final = (225, 228, 232)
# Blue and orange: told apart by colour-blind readers too.
_GOOD: Final = (0, 92, 171)
_BAD: Final = (200, 80, 0)


class _CompletionLines(NamedTuple):
    """One completion, cut into lines."""

    reward: float | None
    advantage: float | None
    text: list[str]
    terms: list[str]

    @property
    def height_px(self) -> int:
        return len(self.text) * line_height_px(_TEXT_PX) + len(self.terms) * line_height_px(_SMALL_PX) + _GAP_PX


def draw_samples(samples: SceneSamples, width_px: int = WIDTH_PX) -> Image.Image:
    """Draw the frames of a scene with its K completions beneath, the best rewarded first.

    Args:
        samples: the scene; without rewards or advantages their columns are left out.
        width_px: width of the picture; texts wrap, and long ones end in an ellipsis.

    Returns:
        An RGB picture as high as its content.

    Raises:
        ValueError: if a list does not have K entries, or the frames are not uint8[M, 3, H, W].
    """
    _check(samples)
    strip = draw_frame_strip(samples.frames, width_px - 2 * _MARGIN_PX)
    has_rewards, has_advantages = bool(samples.rewards), bool(samples.advantages)
    left = _MARGIN_PX + _NUMBER_PX * (has_rewards + has_advantages)
    rows = _rows(samples, width_px - _MARGIN_PX - left)
    head_px = line_height_px(_TEXT_PX) + _GAP_PX
    table_top = _MARGIN_PX + head_px + strip.height + _GAP_PX
    height = table_top + line_height_px(_SMALL_PX) + sum(r.height_px + 1 for r in rows) + _MARGIN_PX
    page = Image.new("RGB", (width_px, height), _PAPER)
    draw = ImageDraw.Draw(page)
    title = wrap_text(samples.id, _TEXT_PX, width_px - 2 * _MARGIN_PX, 1)
    draw.text((_MARGIN_PX, _MARGIN_PX), title[0], _INK, load_font(_TEXT_PX))
    page.paste(strip, (_MARGIN_PX, _MARGIN_PX + head_px))

    names = ["reward"] * has_rewards + ["advantage"] * has_advantages
    for column, name in enumerate(names):
        draw.text((_MARGIN_PX + column * _NUMBER_PX, table_top), name, _FAINT, load_font(_SMALL_PX))
    draw.text((left, table_top), f"{len(rows)} completions", _FAINT, load_font(_SMALL_PX))
    y = table_top + line_height_px(_SMALL_PX)
    for row in rows:
        draw.line((_MARGIN_PX, y, width_px - _MARGIN_PX, y), _RULE)
        _draw_row(draw, row, left, y + 1 + _GAP_PX // 2)
        y += row.height_px + 1
    return page


def annotate_frames(frames: Tensor, lines: Sequence[str], width_px: int = WIDTH_PX) -> Image.Image:
    """Draw the frames of a scene with lines of text beneath.

    Args:
        frames: uint8[M, 3, H, W].
        lines: paragraphs; each wraps, the first in full ink and the others fainter and smaller.
        width_px: width of the picture.

    Returns:
        An RGB picture as high as its content.

    Raises:
        ValueError: if the frames are not uint8[M, 3, H, W].
    """
    inner = width_px - 2 * _MARGIN_PX
    strip = draw_frame_strip(frames, inner)
    sizes = [_TEXT_PX] + [_SMALL_PX] * (len(lines) - 1)
    cut = [(size, line) for size, text in zip(sizes, lines, strict=False) for line in wrap_text(text, size, inner, 12)]
    height = 2 * _MARGIN_PX + strip.height + _GAP_PX + sum(line_height_px(size) for size, _ in cut)
    page = Image.new("RGB", (width_px, height), _PAPER)
    page.paste(strip, (_MARGIN_PX, _MARGIN_PX))
    draw = ImageDraw.Draw(page)
    y = _MARGIN_PX + strip.height + _GAP_PX
    for size, line in cut:
        draw.text((_MARGIN_PX, y), line, _INK if size == _TEXT_PX else _FAINT, load_font(size))
        y += line_height_px(size)
    return page


def _check(samples: SceneSamples) -> None:
    lists = {"rewards": samples.rewards, "advantages": samples.advantages, **samples.terms}
    for name, values in lists.items():
        if len(values) not in {0, len(samples.texts)}:
            raise ValueError(f"{name} of {samples.id} must have {len(samples.texts)} entries, got {len(values)}")


def _rows(samples: SceneSamples, width_px: int) -> list[_CompletionLines]:
    order = range(len(samples.texts))
    if samples.rewards:
        order = sorted(order, key=lambda k: -samples.rewards[k])
    rows = []
    for k in order:
        terms = ",  ".join(f"{name} {values[k]:.3f}" for name, values in samples.terms.items() if values)
        rows.append(
            _CompletionLines(
                reward=samples.rewards[k] if samples.rewards else None,
                advantage=samples.advantages[k] if samples.advantages else None,
                text=wrap_text(samples.texts[k] or "(empty)", _TEXT_PX, width_px, _MAX_LINES),
                terms=wrap_text(terms, _SMALL_PX, width_px, 2) if terms else [],
            )
        )
    return rows


def _draw_row(draw: ImageDraw.ImageDraw, row: _CompletionLines, left: int, y: int) -> None:
    x = _MARGIN_PX
    if row.reward is not None:
        draw.text((x, y), f"{row.reward:.3f}", _INK, load_font(_TEXT_PX))
        x += _NUMBER_PX
    if row.advantage is not None:
        colour = _GOOD if row.advantage > 0 else _BAD if row.advantage < 0 else _FAINT
        draw.text((x, y), f"{row.advantage:+.3f}", colour, load_font(_TEXT_PX))
    for line in row.text:
        draw.text((left, y), line, _INK, load_font(_TEXT_PX))
        y += line_height_px(_TEXT_PX)
    for line in row.terms:
        draw.text((left, y), line, _FAINT, load_font(_SMALL_PX))
        y += line_height_px(_SMALL_PX)


def draw_frame_strip(frames: Tensor, width_px: int) -> Image.Image:
    """Paste M frames side by side, oldest first, in rows of at most four."""
    if frames.ndim != 4 or frames.shape[1] != 3 or str(frames.dtype) != "torch.uint8" or not len(frames):
        raise ValueError(f"frames must be uint8[M, 3, H, W], got {frames.dtype}{list(frames.shape)}")
    num, _, height, width = frames.shape
    columns = min(num, _MAX_COLUMNS)
    room_px = (width_px - _GAP_PX * (columns - 1)) // columns
    scale = min(room_px / width, _MAX_FRAME_HEIGHT_PX / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    num_rows = -(-num // columns)
    strip = Image.new("RGB", (width_px, num_rows * (size[1] + _GAP_PX) - _GAP_PX), _PAPER)
    for i, frame in enumerate(frames.cpu().permute(0, 2, 3, 1).contiguous().numpy()):
        picture = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
        strip.paste(picture, ((i % columns) * (size[0] + _GAP_PX), (i // columns) * (size[1] + _GAP_PX)))
    return strip


def wrap_text(text: str, size_px: int, width_px: int, max_lines: int) -> list[str]:
    """Cut a text into lines that fit; white space collapses, a word wider than a line is broken."""
    font = load_font(size_px)
    lines, line = [], ""
    for word in text.split():
        while word:
            joined = f"{line} {word}".strip()
            if font.getlength(joined) <= width_px:
                line, word = joined, ""
            elif line:
                lines.append(line)
                line = ""
            else:
                fits = max(1, _num_fitting(word, font, width_px))
                lines.append(word[:fits])
                word = word[fits:]
    lines = [*lines, line] if line or not lines else lines
    if len(lines) > max_lines:
        room_px = width_px - font.getlength(" ...")
        last = lines[max_lines - 1]
        lines = [*lines[: max_lines - 1], last[: _num_fitting(last, font, room_px)] + " ..."]
    return lines


def _num_fitting(word: str, font: ImageFont.FreeTypeFont, width_px: float) -> int:
    return next((n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width_px), 0)


@cache
def load_font(size_px: int) -> ImageFont.FreeTypeFont:
    """Load Pillow's own font in a size."""
    font = ImageFont.load_default(size=size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; install a standard wheel")
    return font


def line_height_px(size_px: int) -> int:
    """Compute the height of a line of text, with the space to the next one."""
    return round(size_px * 1.35)
