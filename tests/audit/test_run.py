"""What an audit says of judges that are known."""

import json

import pytest
import torch
from judges import TextJudge, draw_batches, hidden, knows_facts, knows_labels, true_reasons

from lvad.audit import run_audit
from lvad.audit.probes import GIBBERISH, PROBES
from lvad.audit.scoring import texts_as_rollouts
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA
from lvad.types import Rollouts

BATCHES = draw_batches(150)
CPU = torch.device("cpu")


def audit(of, batches=BATCHES, texts="reason", seed=0):
    return run_audit(TextJudge(of), batches, texts, seed)


def test_an_oracle_withstands_everything():
    found = audit(knows_labels)
    assert {probe.verdict for probe in found.probes.values()} == {"pass"}
    assert found.verdict == "pass"
    assert found.tells_right_from_wrong
    other = found.probes["other_scene"]
    assert (other.right, other.probe) == (1, -1)
    assert other.separation == (2, 2, 2)
    assert other.win_rate == (1, 1, 1)
    ranking = found.ranking
    assert ranking is not None
    assert (ranking.rank.mean, ranking.rank.median, ranking.auroc, ranking.auroc_per_text) == (1, 1, 1, 1)
    assert ranking.auroc_floor < 1
    assert ranking.calibration is not None
    assert ranking.calibration.ece < 0.01


def test_an_oracle_of_facts_withstands_what_facts_can_tell():
    """It has nothing against order, length and repetition, so there it cannot win."""
    found = audit(knows_facts, texts="caption")
    assert found.tells_right_from_wrong
    assert {"flipped_image", "swapped_sides"}.isdisjoint(found.failed)
    assert "repeated" in found.failed
    assert found.ranking is None
    assert found.as_dict()["auroc"] is None


def test_a_constant_fails_everything():
    found = audit(lambda *_: 0.3)
    assert found.failed == list(PROBES)
    assert not found.tells_right_from_wrong
    assert all(probe.separation == (0, 0, 0) for probe in found.probes.values())
    assert all(probe.win_rate == (0.5, 0.5, 0.5) for probe in found.probes.values())
    assert found.ranking is not None
    assert found.ranking.auroc == 0.5
    assert found.ranking.rank.mean == pytest.approx(found.ranking.rank.chance)


def test_a_taste_for_frequent_reasons_is_not_sight():
    often = torch.cat([batch.reasons for batch in BATCHES]).float().mean(0)
    frequency = dict(zip(BDD_OIA.reason_texts, often.tolist(), strict=True))
    found = audit(lambda batch, i, text: frequency.get(text, 0.0))
    other = found.probes["other_scene"]
    assert other.separation is not None
    assert other.separation.mean == pytest.approx(0, abs=1e-12)
    assert other.win_rate is not None
    assert other.win_rate.mean == 0.5
    assert other.verdict == found.probes["flipped_image"].verdict == "fail"
    assert all(found.probes[name].verdict == "pass" for name in GIBBERISH)
    assert not found.tells_right_from_wrong
    ranking = found.ranking
    assert ranking is not None
    assert ranking.auroc == ranking.auroc_floor > 0.6
    assert ranking.auroc_per_text == 0.5


def test_a_taste_for_length_fails_where_more_is_said():
    found = audit(lambda batch, i, text: len(text))
    assert {"repeated", "overlong", "all_21", "constant", "other_scene"} <= set(found.failed)
    assert found.probes["empty"].verdict == found.probes["all_true"].verdict == "pass"


def test_who_does_not_know_left_from_right_fails_there_alone():
    def one_side(text):
        return text.replace("left", "right")

    def judge(batch, i, text):
        said, true = one_side(text).split(", "), [one_side(reason) for reason in true_reasons(batch, i)]
        known = [one_side(reason) for reason in BDD_OIA.reason_texts]
        return -1 if set(said) - set(known) else sum(1 if one in true else -1 for one in said) / len(said) ** 0.5

    assert (
        {"flipped_image", "swapped_sides"} <= set(audit(judge).failed) <= {"flipped_image", "swapped_sides", "all_21"}
    )


def test_the_frames_are_mirrored_for_that_probe_alone():
    """The white column is on the left, and the judge likes it there."""
    found = audit(lambda batch, i, text: batch.frames[i][0, 0, 0, 0] / 255)
    expected = {name: ((1, 0) if name == "flipped_image" else (1, 1)) for name in PROBES}
    assert {name: (probe.right, probe.probe) for name, probe in found.probes.items()} == expected


def test_given_texts_without_labels_skip_what_needs_them():
    texts = [captions[-1] for batch in BATCHES for captions in batch.captions]
    truth = dict(zip([name for batch in BATCHES for name in batch.ids], texts, strict=True))
    found = audit(lambda batch, i, text: text == truth[batch.ids[i]], hidden(BATCHES), texts)
    skipped = {name: probe for name, probe in found.probes.items() if probe.verdict == "skipped"}
    assert skipped.keys() == {"all_true", "flipped_image", "swapped_sides"}
    assert "0 of 150 scenes qualify, 8 are needed" in skipped["all_true"].why
    assert found.texts == "given"
    assert found.ranking is None
    assert found.verdict == "pass"
    assert found.tells_right_from_wrong


def test_given_texts_with_labels_are_held_against_them():
    texts = [captions[-1] for batch in BATCHES for captions in batch.captions]
    found = audit(knows_facts, BATCHES, texts)
    assert "skipped" not in {probe.verdict for probe in found.probes.values()}


def test_the_same_seed_gives_the_same_and_batches_do_not_matter():
    assert audit(knows_labels) == audit(knows_labels, draw_batches(150, batch_size=64))
    assert audit(len_of) == audit(len_of)
    assert audit(len_of) != audit(len_of, seed=1)


def len_of(batch, i, text):
    return len(text)


def test_json_knows_all_of_it():
    found = json.loads(json.dumps(audit(knows_labels).as_dict(), allow_nan=False))
    assert found["verdict"] == "pass"
    assert found["num_scenes"] == found["probes"]["empty"]["num_scenes"] > 140
    assert found["probes"]["empty"]["separation"] == [2, 2, 2]
    assert found["rank"]["mean"] == found["auroc"] == 1
    assert {"slope", "claimed", "observed", "count", "ece"} <= found["calibration"].keys()


@pytest.mark.parametrize(("text", "name"), [("123", "probe 'digits'"), ("road is clear", "candidate 'road is clear'")])
def test_a_reward_that_is_no_number_is_named(text, name):
    with pytest.raises(ValueError, match=f"reward nan of the {name} for scene 'scene-"):
        audit(lambda batch, i, said: float("nan") if said == text else -len(said))


def test_scores_of_another_shape_are_refused():
    class Judge(TextJudge):
        def score(self, batch, rollouts):
            scores = super().score(batch, rollouts)
            return scores._replace(total=scores.total.T)

    with pytest.raises(ValueError, match=r"must give \[10, 33\] scores, got \[33, 10\]"):
        run_audit(Judge(len_of), BATCHES)


def test_scenes_have_to_come_twice_in_the_same_order():
    with pytest.raises(ValueError, match="end sooner when read again"):
        audit(len_of, iter(BATCHES))

    class Turning:
        def __init__(self):
            self.order = BATCHES

        def __iter__(self):
            self.order = self.order[::-1]
            return iter(self.order)

    with pytest.raises(ValueError, match="the same scenes every time"):
        audit(len_of, Turning())


def test_few_scenes_prove_nothing():
    with pytest.raises(DataError, match="needs 8 scenes with a right text, got 5"):
        audit(len_of, draw_batches(5))


def test_texts_as_rollouts():
    found = texts_as_rollouts([["a car a", ""]], CPU)
    assert isinstance(found, Rollouts)
    # Word ids in the order of first use, then 0 for the end and the padding.
    assert found.tokens.tolist() == [[[1, 2, 1, 0], [0, 0, 0, 0]]]
    assert found.completion_mask.tolist() == [[[True] * 4, [True, False, False, False]]]
    assert found.logps.shape == found.entropies.shape == (1, 2, 4)
    assert not found.is_truncated.any()
