"""The end of ``lvad test`` on the terminal: what was scored, without the hundreds of numbers per label."""

from collections.abc import Iterable, Mapping

from lvad.report.runs import markdown
from lvad.types import Table


def scores_text(metrics: Mapping[str, float], tables: Iterable[Table]) -> str:
    """Write the scores over all scenes as text, then the tables.

    Args:
        metrics: of the test; those of one label or of a constant answer ("test/a/b") are left to ``metrics.json``.
        tables: the run's own.
    """
    whole = {name: value for name, value in metrics.items() if name.count("/") == 1 and name[:5] == "test/"}
    width = max(map(len, whole), default=0)
    lines = [f"{name:{width}}  {value:.4f}" for name, value in sorted(whole.items())]
    return "\n".join(["", *lines, "", *(markdown(table) for table in tables)])
