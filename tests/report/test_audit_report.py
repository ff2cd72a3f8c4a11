"""An audit as a table and as a picture."""

import pytest
from PIL import Image

from lvad.audit.probes import PROBES
from lvad.audit.ranking import Calibration, Rank, Ranking
from lvad.audit.verdict import Audit, ProbeResult
from lvad.metrics.intervals import Interval
from lvad.report.audit_report import audit_picture, audit_table

PASSED = ProbeResult("pass", Interval(0.25, 0.2, 0.3), Interval(0.9, 0.85, 0.95), 0.5, 0.25, 40, "")
FAILED = ProbeResult("fail", Interval(-1234.5, -2000, -900), Interval(0.1, 0.0, 0.2), -99.5, 1135.0, 40, "")
SKIPPED = ProbeResult("skipped", None, None, None, None, 3, "3 of 40 scenes qualify")
RANKING = Ranking(Rank(1.5, 1.0, 10.0), 0.9, 0.7, 0.8, Calibration(2.0, 0.1, [0.1, 0.9], [0.2, 0.8], [30, 10], 0.1))


def found(ranking=RANKING, **special):
    return Audit("reason", 40, {name: special.get(name, PASSED) for name in PROBES}, ranking)


def test_the_table_has_a_line_per_probe_and_ends_with_the_verdict():
    lines = audit_table(found(repeated=FAILED, flipped_image=SKIPPED)).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[2 : 2 + len(PROBES)]] == list(PROBES)
    cells = next(line.split() for line in lines if line.startswith("other_scene"))
    assert cells == "other_scene 0.500 0.250 +0.250 [+0.200, +0.300] 0.900 [0.850, 0.950] 40 pass".split()
    assert "skipped flipped_image: 3 of 40 scenes qualify" in lines
    assert any("mean 1.50, median 1 (chance 10.00)" in line for line in lines)
    assert any("AUROC 0.900 (frequencies alone 0.700); per text 0.800" in line for line in lines)
    assert lines[-1] == "verdict: fail (repeated), on 40 scenes with reasons"
    # Right-aligned numbers end in one column.
    ends = {line.index(" 40 ") for line in lines if " 40  " in line}
    assert len(ends) == 1


def test_the_table_without_ranking():
    text = audit_table(found(None)._replace(texts="given"))
    assert "AUROC" not in text
    assert text.endswith("verdict: pass, on 40 scenes with given texts")


@pytest.mark.parametrize("ranking", [RANKING, RANKING._replace(calibration=None), None])
def test_the_picture_is_a_whole_file_with_blue_and_orange_bars(tmp_path, ranking):
    path = audit_picture(found(ranking, repeated=FAILED, flipped_image=SKIPPED), "title", tmp_path / "new/audit.png")
    assert [file.name for file in path.parent.iterdir()] == ["audit.png"]
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or []}
        assert {(0, 0x5C, 0xAB), (0xC8, 0x50, 0)} <= colours
        assert (picture.width > 1200) == bool(ranking and ranking.calibration)
