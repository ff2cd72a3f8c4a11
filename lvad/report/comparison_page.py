"""``comparison.html``: a comparison of runs as one page that needs no other file, no script and no network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from lvad.report.html_pages import STYLE, TEMPLATES, content_hash, inline_figure
from lvad.report.runs import write_atomically
from lvad.types import Table

PAGE: Final = "comparison.html"


def write_comparison_page(
    folder: Path, names: Iterable[str], tables: Iterable[Table], label_line: str, figure: Figure | None
) -> Path:
    """Write the tables and the figure of a comparison as one page.

    Args:
        folder: made if missing.
        names: of the compared runs.
        tables: in order; the first column names the rows.
        label_line: whether the runs have as many labels as each other.
        figure: drawn above the tables; None for none.

    Returns:
        The file.
    """
    title = f"Comparison of {', '.join(names)}"
    text = TEMPLATES.get_template(PAGE).render(
        title=title,
        label_line=label_line,
        policy=f"default-src 'none'; img-src data:; style-src {content_hash(STYLE)}",
        style=STYLE,
        tables=list(tables),
        picture=None if figure is None else inline_figure(figure),
        picture_says=f"{title}, as a plot: the numbers stand in the tables",
    )
    write_atomically(folder / PAGE, text)
    return folder / PAGE
