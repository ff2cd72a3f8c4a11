"""Objectives of the supervised stage on laws that can be listed."""

import pytest
import torch

from lvad.objectives.text_objectives import CrossEntropy, ExpectedBLEU, Lesson, MinimumRisk
from lvad.policy import HFPolicy, Sampling
from lvad.rewards.bleu import sentence_bleu

RIGHT = "a red car ahead"
OTHERS = ("a car", "a red light")


@pytest.fixture
def policy(vlm_folder):
    torch.manual_seed(0)
    return HFPolicy(str(vlm_folder), Sampling(max_new_tokens=12), lora=None).eval()


def lesson(policy, make_batch, weights=(1.0, 1.0)):
    prefix = policy.encode(make_batch(1, 1))
    return Lesson(prefix, [[RIGHT], ["a car"]], torch.tensor(weights), None)


def gradient(policy, loss):
    policy.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def test_cross_entropy_is_that_of_the_texts_tokens(policy, make_batch):
    task = lesson(policy, make_batch)
    targets = policy.targets(task.texts)
    logps = policy.logprobs(task.prefix, targets)[:, 0]
    mask = targets.completion_mask[:, 0]
    expected = -logps[mask].sum() / mask.sum()
    torch.testing.assert_close(CrossEntropy().loss(policy, task)[0], expected)
    torch.testing.assert_close(CrossEntropy(class_weights=True).loss(policy, task)[0], expected)


def test_class_weights_weigh_scenes(policy, make_batch):
    task = lesson(policy, make_batch, (3.0, 1.0))
    targets = policy.targets(task.texts)
    logps, mask = policy.logprobs(task.prefix, targets)[:, 0], targets.completion_mask[:, 0]
    expected = -(3 * logps[0][mask[0]].sum() + logps[1][mask[1]].sum()) / mask.sum()
    torch.testing.assert_close(CrossEntropy(class_weights=True).loss(policy, task)[0], expected)


def given(policy, monkeypatch, *texts):
    """Let the policy say these texts instead of drawing."""
    rollouts = policy.targets([list(texts)] * 2)
    monkeypatch.setattr(policy, "generate", lambda *args, **options: rollouts)
    return rollouts


def test_expected_bleu_weighs_what_was_said_by_its_advantage(policy, make_batch, monkeypatch):
    """Scene 0, K = 2: -sum_i (b_i - b_other) log p_i; its gradient is that of the formula."""
    task = lesson(policy, make_batch)
    rollouts = given(policy, monkeypatch, RIGHT, OTHERS[0])
    loss, values = ExpectedBLEU(num_completions=2).loss(policy, task)
    bleu = [[sentence_bleu(t, right) for t in (RIGHT, OTHERS[0])] for right in task.texts]
    logps = policy.logprobs(task.prefix, rollouts).sum(-1)
    by_hand = -sum((row[0] - row[1]) * (logps[b, 0] - logps[b, 1]) for b, row in enumerate(bleu)) / 2
    torch.testing.assert_close(loss, by_hand)
    assert values["train/bleu"].item() == pytest.approx(sum(map(sum, bleu)) / 4)


def test_minimum_risk_holds_the_right_text_once_and_repeats_once(policy, make_batch, monkeypatch):
    task = lesson(policy, make_batch)
    given(policy, monkeypatch, OTHERS[1], OTHERS[1], RIGHT)
    loss, values = MinimumRisk(num_completions=3, sharpness=0.3).loss(policy, task)
    expected = []
    for b, (right,) in enumerate(task.texts):
        members = list(dict.fromkeys([right, OTHERS[1], RIGHT]))
        targets = policy.targets([members] * 2)
        law = (0.3 * policy.logprobs(task.prefix, targets).sum(-1)[b]).softmax(0)
        risks = torch.tensor([1 - sentence_bleu(text, [right]) for text in members])
        expected.append((law * risks).sum())
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    said = [sentence_bleu(text, right) for right in task.texts for text in (OTHERS[1], OTHERS[1], RIGHT)]
    assert values["train/bleu"].item() == pytest.approx(sum(said) / 6)


def test_a_truncated_text_is_no_member_of_the_set(policy, make_batch, monkeypatch):
    """Written anew it would be "a car" with an end, which the model never said."""
    task = lesson(policy, make_batch)
    whole = given(policy, monkeypatch, OTHERS[1], OTHERS[1])
    expected = MinimumRisk(2).loss(policy, task)[0]
    drawn = given(policy, monkeypatch, OTHERS[1], OTHERS[0])._replace(is_truncated=torch.tensor([[False, True]] * 2))
    monkeypatch.setattr(policy, "generate", lambda *args, **options: drawn)
    loss, values = MinimumRisk(2).loss(policy, task)
    torch.testing.assert_close(loss, expected)
    # What is logged is of all that was drawn.
    said = [sentence_bleu(text, right) for right in task.texts for text in (OTHERS[1], OTHERS[0])]
    assert values["train/bleu"].item() == pytest.approx(sum(said) / 4)
    # Of no finished text the right one is left, at no risk.
    monkeypatch.setattr(policy, "generate", lambda *a, **o: whole._replace(is_truncated=torch.ones(2, 2).bool()))
    assert MinimumRisk(2).loss(policy, task)[0].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("objective", [ExpectedBLEU(4), MinimumRisk(4, 0.05)])
def test_what_is_right_becomes_more_probable(policy, make_batch, monkeypatch, objective):
    """With drawn texts replaced by near misses, a step down the loss raises the right text above them."""
    task = lesson(policy, make_batch)._replace(texts=[[RIGHT], [RIGHT]])
    given(policy, monkeypatch, RIGHT, *OTHERS, "the light is green")
    targets = policy.targets([[RIGHT, *OTHERS]] * 2)

    def margin():
        with torch.no_grad():
            logps = policy.logprobs(policy.encode(make_batch(1, 1)), targets).sum(-1)
        return (logps[:, 0] - logps[:, 1:].mean(1)).mean().item()

    before = margin()
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
    gradient(policy, objective.loss(policy, task)[0])
    optimizer.step()
    assert margin() > before


def test_one_drawn_text_has_no_sibling(policy, make_batch):
    with pytest.raises(ValueError, match="num_completions >= 2"):
        ExpectedBLEU(1).loss(policy, lesson(policy, make_batch))
