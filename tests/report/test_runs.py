"""What ``lvad test`` prints."""

from lvad.report.runs import summary_of_test
from lvad.types import Table


def test_scores_of_all_scenes_and_the_tables_are_shown():
    metrics = {"test/b": 0.5, "test/action_f1": 0.25, "test/stop/x": 1.0, "test/action_f1/stop": 0.9, "val/b": 0.1}
    text = summary_of_test(metrics, [Table("Floors", ("score", "model"), (("b", "50.0"),))])
    assert text.splitlines()[1:3] == ["test/action_f1  0.2500", "test/b          0.5000"]
    assert "## Floors" in text
    assert "| b | 50.0 |" in text
    assert not any(part in text for part in ("stop", "val/b"))
