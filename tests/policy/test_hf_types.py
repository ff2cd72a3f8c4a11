"""Number types and devices: 16 bits and CUDA against float32 on the CPU."""

import pytest
import torch


@pytest.mark.parametrize("way", ["weights", "autocast"])
def test_bfloat16_samples_in_the_distribution_that_is_differentiated(vlm_folder, make_batch, way):
    from contextlib import nullcontext

    from lvad.policy.hf import HFPolicy, Lora

    torch.manual_seed(0)
    policy = HFPolicy(str(vlm_folder), lora=Lora(rank=4), dtype="bfloat16" if way == "weights" else "float32")
    batch = make_batch(1, 2)
    with torch.autocast("cpu", torch.bfloat16) if way == "autocast" else nullcontext():
        prefix = policy.encode(batch)
        rollouts = policy.generate(prefix, 3)
        logps = policy.logprobs(prefix, rollouts)
    assert logps.dtype == rollouts.logps.dtype == torch.float32
    assert (logps - rollouts.logps).abs().mean() < 0.02
    logps.sum().backward()
    grads = [p.grad for p in policy.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in grads)


def _whole_gradients(policy, batch, rollouts):
    logps = policy.logprobs(policy.encode(batch), rollouts)
    logps.double().square().sum().backward()
    return {name: p.grad.double().cpu() for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("way", ["weights", "autocast"])
def test_all_weights_learn_in_bfloat16_what_they_learn_in_float32(vlm_folder, make_batch, way):
    from lvad.policy.hf import HFPolicy

    batch = make_batch(1, 2)
    exact = HFPolicy(str(vlm_folder), lora=None, freeze_vision=True)
    with torch.no_grad():
        rollouts = exact.generate(exact.encode(batch), 3)
    rounded = HFPolicy(
        str(vlm_folder), lora=None, freeze_vision=True, dtype="bfloat16" if way == "weights" else "float32"
    )
    expected = _whole_gradients(exact, batch, rollouts)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        with torch.no_grad():  # PyTorch before 2.11 kept the rounded weights of these passes, which have no gradient
            rounded.generate(rounded.encode(batch), 1)
        found = _whole_gradients(rounded, batch, rollouts)
    assert found.keys() == expected.keys()
    assert any("embed_tokens" in name for name in found)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 0.1 * gradient.norm(), name


@pytest.mark.gpu
def test_a_cuda_device_draws_and_learns_what_the_cpu_does(vlm_folder, make_batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from lvad.policy.hf import HFPolicy
    from lvad.policy.sampling import Sampling

    batch = make_batch(1, 2)
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=8), lora=None)
    rollouts = policy.generate(policy.encode(batch), 3, greedy=True)
    expected = _whole_gradients(policy, batch, rollouts)
    policy.zero_grad()
    policy.cuda()
    drawn = policy.generate(policy.encode(batch), 3, greedy=True)
    assert drawn.tokens.tolist() == rollouts.tokens.tolist()
    found = _whole_gradients(policy, batch, drawn)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm(), name
