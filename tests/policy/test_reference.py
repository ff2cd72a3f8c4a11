"""The reference is the start, wherever the adapters lie, and nothing that was seen with them on is used for it."""

import pytest
import torch

from lvad.policy import HFPolicy, Lora, Sampling
from lvad.policy.adapters import active_weights
from lvad.policy.vision import VisionCache

TOWER = r".*vision_model.*(q|k|v|out)_proj"
CONNECTOR = r".*connector.*proj"
BOTH = r".*(q|k|v|o|out|gate|up|down)_proj"


def bend(policy, std=0.3):
    """Move the adapters away from doing nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, std)


@pytest.fixture
def make(vlm_folder):
    def make(targets, **options):
        torch.manual_seed(0)
        lora = Lora(rank=4, targets=targets) if targets else None
        return HFPolicy(str(vlm_folder), Sampling(max_new_tokens=6), lora=lora, **options).eval()

    return make


@pytest.mark.parametrize("targets", [TOWER, CONNECTOR, BOTH])
@pytest.mark.parametrize("mode", ["under gradients", "without"])
def test_the_reference_is_the_start_wherever_the_adapters_lie(make, make_batch, targets, mode):
    policy, start, batch = make(targets), make(None), make_batch(1, 2)
    for std in (0.3, 0.5):  # a second update: nothing of the first may be left
        bend(policy, std)
        with torch.set_grad_enabled(mode == "under gradients"):
            prefix = policy.encode(batch)
            rollouts = policy.generate(prefix, 3)
        with torch.no_grad():
            expected = start.logprobs(start.encode(batch), rollouts)
        found = policy.reference_logprobs(batch, prefix, rollouts)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (policy.logprobs(prefix, rollouts) - found).abs().max() > 1e-3
        assert all(p.requires_grad for name, p in policy.named_parameters() if "lora_" in name)


def test_a_refreshed_reference_sees_with_the_adapters_that_it_had(make, make_batch):
    policy, batch = make(BOTH), make_batch(1)
    bend(policy)
    prefix = policy.encode(batch)
    rollouts = policy.generate(prefix, 3)
    at_refresh = policy.logprobs(prefix, rollouts).detach()
    policy.reference_logprobs(batch, prefix, rollouts)  # the start's visual tokens are kept from here on
    policy.refresh_reference()
    bend(policy, 0.5)
    found = policy.reference_logprobs(batch, policy.encode(batch), rollouts)
    torch.testing.assert_close(found, at_refresh, rtol=0, atol=1e-5)


def test_visual_tokens_kept_with_adapters_off_are_not_taken_with_adapters_on(make, make_batch):
    """A trained policy that is frozen, as for an evaluation, keeps both kinds."""
    policy, batch = make(BOTH, vision_cache=VisionCache()), make_batch(1)
    bend(policy)
    policy.requires_grad_(False)
    with torch.no_grad():
        for _ in range(2):
            on = policy.encode(batch).embeds
            with policy.model.disable_adapter():
                off = policy.encode(batch).embeds
            policy.requires_grad_(False)
            torch.testing.assert_close(off, make(None).encode(batch).embeds, rtol=0, atol=1e-6)
            assert (on - off).abs().max() > 1e-3


def test_the_start_sees_each_scene_once(make, make_batch):
    policy, batch, seen = make(TOWER), make_batch(1), []
    prefix = policy.encode(batch)
    rollouts = policy.generate(prefix, 2)
    policy.vlm.model.vision_model.register_forward_hook(lambda *_: seen.append(1))
    for std in (0.1, 0.2):
        bend(policy, std)
        policy.reference_logprobs(batch, prefix, rollouts)
    assert len(seen) == 1


def test_weights_of_adapters_that_are_off_are_not_active(make):
    policy, plain = make(TOWER), make(None)
    tower = policy.vlm.model.vision_model
    num_base, num_all = (len(list(p.vlm.model.vision_model.parameters())) for p in (plain, policy))
    assert len(active_weights(tower)) == num_all > num_base
    with policy.model.disable_adapter():
        assert len(active_weights(tower)) == num_base
