"""The index order: the release's own key, word by word where it is at hand."""

from lvad.taxonomy import ACTIONS, FORWARD, LEFT, NUM_REASONS, REASON_INDEX, REASONS, RIGHT, STOP


def test_sizes_and_groups():
    assert ACTIONS == ("forward", "stop", "left", "right")
    assert NUM_REASONS == 21
    groups = [FORWARD] * 3 + [STOP] * 6 + [LEFT] * 3 + [RIGHT] * 3 + [LEFT] * 3 + [RIGHT] * 3
    assert [reason.action for reason in REASONS] == groups
    assert [reason.supports for reason in REASONS] == [True] * 15 + [False] * 6
    assert len(REASON_INDEX) == len({reason.text for reason in REASONS}) == NUM_REASONS


def test_keys_stand_in_the_order_of_the_release(shared_data):
    key = (shared_data / "bddoia_annotations" / "OFFICIAL_LABEL_README.txt").read_text()
    found = sorted(REASON_INDEX, key=lambda name: key.index(name))
    assert found == [reason.key for reason in REASONS]
