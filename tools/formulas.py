"""MkDocs hook: the formulas of a page become MathML, which browsers draw without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula of a page that Arithmatex marked.

    Args:
        content: HTML of the page.

    Returns:
        The same HTML with ``<math>`` elements; displayed formulas stand on a line of their own.
    """
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    element, bracket, formula = found.groups()
    display = "block" if bracket == "[" else "inline"
    return f'<{element} class="arithmatex">{convert(html.unescape(formula), display=display)}</{element}>'
