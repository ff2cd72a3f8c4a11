"""Corrupted texts differ from the text, and in the way that their name says."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad.data.text_corruption import CORRUPTIONS, corrupt

POOL = ("zebra", "yes")
WORDS = st.lists(st.sampled_from("a red car is on the left lane".split()), max_size=12)


@settings(database=None, derandomize=True, max_examples=200)
@given(words=WORDS, kind=st.sampled_from(sorted(CORRUPTIONS)), seed=st.integers(0, 1000))
def test_what_each_does_to_the_words(words, kind, seed):
    text = " ".join(words)
    found = corrupt(text, kind, POOL, torch.Generator().manual_seed(seed)).split()
    if not words:
        assert found == []
        return
    assert found != words
    before, after = Counter(words), Counter(found)
    is_repeated = not before - after and set(found) <= set(words) and len(found) > len(words)
    if kind == "repeat":
        assert is_repeated
        assert len(found) - len(words) <= 3
    elif kind == "remove":
        assert is_repeated if len(words) == 1 else (after <= before and 1 <= len(found) < len(words))
    elif kind == "insert":
        # The right words in their order, with foreign ones between them.
        assert [word for word in found if word not in POOL] == words
    elif kind == "swap":
        assert len(found) == len(words)
        changed = [b for a, b in zip(words, found, strict=True) if a != b]
        assert changed
        assert set(changed) <= set(POOL)
    else:
        assert before == after or is_repeated


def test_the_same_seed_spoils_alike_and_the_global_state_serves_where_no_generator_is_given():
    draws = [corrupt("a red car is far ahead", "shuffle", (), torch.Generator().manual_seed(3)) for _ in range(2)]
    assert draws[0] == draws[1]
    torch.manual_seed(3)
    assert corrupt("a red car is far ahead", "shuffle", ()) == draws[0]


@pytest.mark.parametrize("kind", sorted(CORRUPTIONS))
def test_one_word_and_equal_words_can_be_spoilt(kind):
    assert corrupt("car", kind, POOL) != "car"
    assert corrupt("car car", kind, POOL).split() != ["car", "car"]


def test_what_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match=r"unknown corruption 'translate', choose from \['insert'"):
        corrupt("a car", "translate", POOL)
    with pytest.raises(ValueError, match="'swap' needs a pool"):
        corrupt("a car", "swap", ())
