"""Decisions by several views of a scene."""

import pytest
import torch

from lvad.answers.decision import Voting, VotingView, questions, vote
from lvad.answers.describer import DescriptionOptions
from lvad.data.augment import mirror_batch
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.modules import ActionSFT
from lvad.policy import HFPolicy, Sampling
from lvad.policy.grammar import AnswerGrammar
from lvad.rewards import Repetition
from lvad.text import parse

GRAMMAR = AnswerGrammar(True)


@pytest.fixture(scope="module")
def policy(vlm_folder):
    torch.manual_seed(0)
    return HFPolicy(str(vlm_folder), Sampling(max_new_tokens=150), lora=None).eval()


@pytest.fixture(scope="module")
def batch(drawn_root):
    data = BDDOIADataModule(Source("lastframe", str(drawn_root)), eval_batch_size=4)
    data.setup()
    return next(iter(data.val_dataloader()))


def view(policy, batch, is_mirrored=False):
    return VotingView(
        mirror_batch(batch) if is_mirrored else batch, questions(policy, [""] * len(batch.ids)), is_mirrored
    )


def test_a_view_that_is_seen_twice_counts_as_once(policy, batch):
    once, twice = (vote(policy, [view(policy, batch)] * n, True, GRAMMAR) for n in (1, 2))
    assert once.texts == twice.texts
    torch.testing.assert_close(once.probabilities.actions, twice.probabilities.actions)
    torch.testing.assert_close(once.probabilities.reasons, twice.probabilities.reasons)


def test_a_scene_and_its_mirror_are_decided_alike_with_the_sides_exchanged(policy, batch):
    """What sees both views cannot tell which one it was given: an equivariance that one view does not have."""

    def both(scenes):
        return vote(policy, [view(policy, scenes), view(policy, scenes, True)], True, GRAMMAR).probabilities

    found, other = both(batch), both(mirror_batch(batch)).mirrored()
    torch.testing.assert_close(found.actions, other.actions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.reasons, other.reasons, rtol=1e-4, atol=1e-5)
    alone = [vote(policy, [view(policy, scenes)], False).probabilities for scenes in (batch, mirror_batch(batch))]
    assert (alone[0].actions - alone[1].mirrored().actions).abs().max() > 1e-3


def test_an_answer_says_what_is_probable(policy, batch):
    found = vote(policy, [view(policy, batch), view(policy, batch, True)], True, GRAMMAR)
    for text, probabilities in zip(found.texts, found.probabilities.reasons, strict=True):
        answer = parse(text)
        assert answer.is_valid
        assert list(answer.reasons) == (probabilities > 0.5).int().tolist()


@pytest.mark.parametrize(("style", "voting", "views"), [
    (DescriptionOptions(), Voting(3), 3), (DescriptionOptions(), Voting(2, mirrored=True), 4),
    (None, Voting(mirrored=True), 2),
])  # fmt: skip
def test_a_stage_votes_over_its_descriptions_and_views(vlm_folder, batch, style, voting, views):
    torch.manual_seed(0)
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=20), lora=None)
    module = ActionSFT(policy, "action", describe=style, voting=voting, constrain=True).eval()
    asked, encode = [], policy.encode
    policy.encode = lambda *args: asked.append(args[1] if len(args) > 1 else None) or encode(*args)
    rows = module._answer(batch, None, with_probabilities=True)
    own = [questions for questions in asked if questions is not None]
    assert len(own) == views
    assert all(row.is_valid and len(row.action_probabilities) == 4 for row in rows)
    if style is not None:
        assert own[0][0] == questions(policy, [rows[0].description])[0]
        assert own[0][0].startswith(rows[0].description)


def test_votes_need_somebody_who_describes(vlm_folder):
    policy = HFPolicy(str(vlm_folder), lora=None)
    for style in (None, DescriptionOptions(source="caption"), DescriptionOptions(best_of=2, reward=Repetition())):
        with pytest.raises(ValueError, match=r"voting.votes 2 needs the policy's own descriptions, with best_of 1"):
            ActionSFT(policy, describe=style, voting=Voting(2))
    with pytest.raises(ValueError, match="votes must be at least 1, got 0"):
        Voting(0)
