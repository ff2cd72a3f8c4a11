"""BLEU-4 and ROUGE-L of whole sets of texts, worked out by hand."""

import math

import pytest
from sacrebleu.metrics.bleu import BLEU

from lvad.metrics.caption_scores import CaptionScore, corpus_bleu, rouge_l


def test_the_right_texts_themselves_score_one_whatever_their_case():
    texts = ["The car stops because the light is red.", "It turns left slowly and waits."]
    assert corpus_bleu(texts, [[text.upper()] for text in texts]) == pytest.approx(1)
    assert rouge_l(texts, [[text.upper()] for text in texts]) == pytest.approx(1)


def test_bleu_by_hand():
    # the cat sat on the mat / the cat sat on a mat: n-grams that match 5 of 6, 3 of 5, 2 of 4, 1 of 3; equal lengths.
    score = corpus_bleu(["the cat sat on the mat"], [["the cat sat on a mat"]])
    assert score == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # Half the length: every n-gram is right, and exp(1 - 8 / 4) is the penalty.
    assert corpus_bleu(["a b c d"], [["a b c d e f g h"]]) == pytest.approx(math.exp(-1))


def test_bleu_is_of_the_set_and_not_a_mean_of_sentences():
    # 4-grams: 1 of 1 and 0 of 1, and so on; the sums are taken before the ratio.
    score = corpus_bleu(["a b c d", "a b x d"], [["a b c d"], ["a b c d"]])
    assert score == pytest.approx((7 / 8 * 4 / 6 * 2 / 4 * 1 / 2) ** 0.25)


def test_scenes_may_have_different_numbers_of_references():
    texts, references = ["a b c d", "e f g h"], [["x y z w", "a b c d"], ["e f g h"]]
    assert corpus_bleu(texts, references) == pytest.approx(1)
    assert rouge_l(texts, references) == pytest.approx(1)
    assert corpus_bleu(texts[1:], references[1:]) == BLEU().corpus_score(texts[1:], [["e f g h"]]).score / 100


def test_rouge_by_hand():
    # The longest common subsequence of "the car stops" and "the red car quickly stops" has 3 words: P 3/3, R 3/5.
    assert rouge_l(["The car stops."], [["the red car quickly stops"]]) == pytest.approx(2 * 1 * 0.6 / 1.6)
    assert rouge_l(["The car stops.", "no"], [["the red car quickly stops"], ["yes"]]) == pytest.approx(0.75 / 2)


@pytest.mark.parametrize("score", [corpus_bleu, rouge_l])
def test_a_text_needs_a_reference(score):
    for texts, references in (([], []), (["a"], []), (["a"], [[]])):
        with pytest.raises(ValueError, match="need as many rows of references"):
            score(texts, references)


def test_facts_are_scored_where_they_are_known_alone():
    found = CaptionScore()
    assert found.compute() == {}
    found.update(["a", "b"], ["It is night.", "It goes."], [("It is night.",), ("It stops.",)], [None, None])
    found.update(["a"], ["Something else."], [("It is night.",)], [None])  # a scene counts once
    values = found.compute()
    assert set(values) == {"bleu4", "rouge_l"}
    assert values["rouge_l"].item() == pytest.approx((1 + 1 / 2) / 2)
    found.reset()
    assert found.compute() == {}
