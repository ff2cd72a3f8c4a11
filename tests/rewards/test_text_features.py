"""Words and pairs of words as numbers."""

import torch

from lvad.rewards.clip import CLIP
from lvad.rewards.text_features import TextFeatures, choose_vocabulary, terms_of


def test_terms_are_words_and_neighbours():
    assert terms_of("A car. a CAR!") == {"a", "car", "a car", "car a"}
    assert terms_of("") == set()


def test_the_vocabulary_is_what_two_scenes_have():
    assert choose_vocabulary([["red light", "red"], ["red"], ["green light"]]) == ["light", "red"]


def test_a_text_has_a_term_or_not():
    features = TextFeatures(["light", "red light"])
    assert features(["Red light, red light.", "light", ""]).tolist() == [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    assert features([]).shape == (0, 2)


def test_an_embedding_stands_beside_the_words(clip_folder):
    clip = CLIP(str(clip_folder)).eval()
    found = TextFeatures(["light"], clip)(["a light", "a car"])
    size = found.shape[1] - 1
    assert found[:, 0].tolist() == [1.0, 0.0]
    torch.testing.assert_close(found[:, 1:].square().sum(1), torch.full((2,), float(size)).double(), rtol=1e-5, atol=0)
