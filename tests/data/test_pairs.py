"""Right and wrong texts of a scene: label-safe by the labels, on hand-made scenes and on the real files."""

import pytest
import torch

from lvad.data.layouts import read_source
from lvad.data.pairs import TEXT_KINDS, Candidates, candidate_texts, candidates, mirrored_candidates, sample_pairs
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA
from lvad.text import parse
from lvad.types import UNLABELLED, Batch


def labels(*active, size):
    rows = torch.zeros(len(active), size, dtype=torch.int64)
    for row, entries in zip(rows, active, strict=True):
        row[list(entries)] = 1
    return rows


def scenes_with(ids, actions, reasons):
    return Batch(ids, [], actions, reasons, [()] * len(ids), [None] * len(ids), ids)


def test_candidate_texts():
    assert candidate_texts("reason") == BDD_OIA.reason_texts
    assert candidate_texts("action") == tuple(f"Action: {name}." for name in BDD_OIA.action_names)
    outputs = candidate_texts("output")
    assert len(outputs) == len(set(outputs)) == 84
    assert outputs[21 + 7] == "Action: stop. Reason: traffic light is not green."
    with pytest.raises(ValueError, match="text kind must be one of"):
        candidate_texts("colour")


def test_an_output_with_one_true_half_is_neither_right_nor_wrong():
    found = candidates("output", scenes_with(["a"], labels([1], size=4), labels([7], size=21)))
    # Stop with reason 7 is right; 3 other actions x 20 other reasons are wrong; the 3 + 20 mixed ones neither.
    assert found.is_true.nonzero().tolist() == [[0, 21 + 7]]
    assert found.is_false.sum() == 60
    assert not (found.is_true & found.is_false).any()


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_scenes_without_the_labels_are_named(kind):
    none = torch.full((2, 4), UNLABELLED), torch.full((2, 21), UNLABELLED)
    with pytest.raises(DataError, match=rf"which text kind '{kind}' needs: \['a', 'b'\]"):
        candidates(kind, scenes_with(["a", "b"], *none))


def test_actions_alone_are_enough_for_the_kind_action():
    found = candidates("action", scenes_with(["a"], labels([0, 2], size=4), torch.full((1, 21), UNLABELLED)))
    assert found.is_true.tolist() == [[True, False, True, False]]


def test_scenes_without_right_or_wrong_texts_are_left_out_and_wrong_ones_repeat_only_where_they_must():
    is_true = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    pairs = sample_pairs(Candidates((), is_true, ~is_true), 2)
    assert pairs.rows.tolist() == [0, 3]
    assert sorted(pairs.texts[0, 1:].tolist()) == [2, 3]
    assert pairs.texts[1, 1:].tolist() == [3, 3]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sample_pairs(Candidates((), is_true, ~is_true), 0)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_mirrored_candidates_are_a_reflection(kind):
    images = mirrored_candidates(kind)
    assert [images[i] for i in images] == list(range(len(images)))
    if kind == "reason":
        assert images == BDD_OIA.mirrored_reasons


def test_draws_are_uniform():
    is_true = torch.tensor([[1, 1, 0, 0, 0]]).bool().expand(30_000, 5)
    pairs = sample_pairs(Candidates((), is_true, ~is_true), 1, torch.Generator().manual_seed(0))
    share = torch.bincount(pairs.texts.flatten(), minlength=5) / 30_000
    # Standard error below 0.003: four of them.
    torch.testing.assert_close(share, torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]), rtol=0, atol=0.012)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_no_wrong_text_says_anything_true_over_the_real_label_files(shared_data, kind):
    scenes = read_source(shared_data / "bddoia_annotations").require().scenes
    actions = torch.tensor([scene.actions for scene in scenes])
    reasons = torch.tensor([scene.reasons for scene in scenes])
    found = candidates(kind, scenes_with([scene.id for scene in scenes], actions, reasons))
    pairs = sample_pairs(found, 3, torch.Generator().manual_seed(0))
    assert len(pairs.rows) > 0.95 * len(scenes)
    # Not by is_false, which drew them, but by reading the words.
    for row, texts in zip(pairs.rows.tolist(), pairs.texts.tolist(), strict=True):
        truth = scenes[row]
        for place, text in enumerate(texts):
            words = found.texts[text] if kind != "reason" else f"Action: none. Reason: {found.texts[text]}."
            answer = parse(words)
            said = [a & b for a, b in zip(answer.actions, truth.actions, strict=True)] if kind != "reason" else []
            said += [a & b for a, b in zip(answer.reasons, truth.reasons, strict=True)] if kind != "action" else []
            assert sum(said) == (0 if place else 2 if kind == "output" else 1)
