"""The whole training step on a bandit whose answer is known: one token out of four, a reward for each, two pictures."""

import pytest
import torch
from lightning import seed_everything

from lvad.modules import RLOOPolicy
from lvad.objectives import KL
from lvad.policy import HFPolicy, Lora, Sampling
from lvad.types import UNLABELLED, Batch, Rollouts, Scores

LETTERS = "abcd"
REWARDS = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 1.0]])  # of the letters, before red and before blue


class Colours(torch.nn.Module):
    """Pays each letter by what the scene's name, not its picture, says."""

    def score(self, batch, rollouts):
        rows = [REWARDS[["red", "blue"].index(name)] for name in batch.ids]
        total = torch.stack(
            [
                torch.stack([row[LETTERS.index(t.strip())] for t in texts])
                for row, texts in zip(rows, rollouts.texts, strict=True)
            ]
        )
        return Scores(total, {"colour": total})


def make_batch(size, shown=None):
    """Half red, half blue; ``shown`` puts other pictures before the same names."""
    names = ["red", "blue"] * (size // 2)
    fill = {"red": (220, 30, 30), "blue": (30, 30, 220)}
    frames = [
        torch.tensor(fill[name], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 128, 128) for name in shown or names
    ]
    labels = [torch.full((size, n), UNLABELLED) for n in (4, 21)]
    return Batch(names, frames, *labels, [()] * size, [None] * size, names)


@pytest.fixture
def make_module(vlm_folder):
    def make(kl, lora=None):
        seed_everything(0, verbose=False)
        policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=1), lora=lora)
        tokenizer = policy.processor.tokenizer
        policy.banned[:] = True
        policy.banned[[tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS]] = False
        module = RLOOPolicy(policy, Colours(), num_completions=8, kl=kl, audit="off")
        module.log_dict = module.log = lambda *_, **__: None  # there is no trainer
        return module

    return make


def law(policy, batch):
    """float[B, 4], the policy's law over the letters, exactly."""
    ids = torch.tensor(policy.processor.tokenizer.convert_tokens_to_ids(list(LETTERS)))
    tokens = ids.view(1, 4, 1).expand(len(batch.ids), 4, 1)
    rows = Rollouts(tokens, torch.ones_like(tokens, dtype=torch.bool), None, None, None, [])
    with torch.no_grad():
        return policy.logprobs(policy.encode(batch), rows).sum(-1).exp()


def train(module, steps, lr, shuffled=False):
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        shown = [["red", "blue"][i] for i in torch.randint(2, (16,))] if shuffled else None
        optimizer.zero_grad()
        module.training_step(make_batch(16, shown), 0)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


@pytest.mark.slow
def test_it_reads_the_picture_and_ends_at_the_tilted_reference(make_module):
    """p_ref exp(r / beta) / Z, another law for each picture, from samples alone."""
    beta, two = 0.5, make_batch(2)
    module = make_module(KL(beta))
    start = law(module.policy, two)
    torch.testing.assert_close(start.sum(1), torch.ones(2), rtol=0, atol=1e-5)
    train(module, steps=150, lr=3e-3)
    tilted = (start.log() + REWARDS / beta).softmax(1)
    assert (start - tilted).abs().sum(1).min() > 0.5
    assert (law(module.policy, two) - tilted).abs().sum(1).max() < 0.2  # twice the total variation


@pytest.mark.slow
def test_with_shuffled_pictures_it_cannot(make_module):
    """The control: no law that does not see the scene earns more than half; the one that sees it earns nearly all."""
    two = make_batch(2)
    module = make_module(KL(0.2))
    train(module, steps=80, lr=3e-3)
    assert (law(module.policy, two) * REWARDS).sum(1).mean() > 0.85
    blind = make_module(KL(0.2))
    train(blind, steps=80, lr=3e-3, shuffled=True)
    earned = (law(blind.policy, two) * REWARDS).sum(1).mean()
    assert earned < 0.65


@pytest.mark.slow
def test_adapters_can_do_it_too(make_module):
    module = make_module(None, lora=Lora(rank=4))
    train(module, steps=80, lr=1e-2)
    assert (law(module.policy, make_batch(2)) * REWARDS).sum(1).mean() > 0.8
