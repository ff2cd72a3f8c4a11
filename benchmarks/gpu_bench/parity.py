"""The same numbers as on the CPU: logits, log-probabilities, gradients, and draws from the same uniform numbers."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from rloo_bench.ours import make_batch, on_device
from rloo_bench.setting import PROMPT, Setting
from torch import Tensor

from gpu_bench.bench import Bench
from gpu_bench.rows import Row, Rows
from lvad.policy import HFPolicy, Sampling
from lvad.text import Prompts
from lvad.types import Batch, Rollouts

MODELS = ("embedded", "smolvlm-256m-litevision")
DTYPES = ("float32", "bfloat16", "float16")
BARS = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.02}
"""Of logits and gradient: the norm of the difference over the norm. Of log-probabilities: the mean difference, nats."""
SAME_DRAWS = {"float32": 0.99, "bfloat16": 0.5, "float16": 0.75}
"""Of the tokens: where one differs, what follows it in its completion may be another text. A bar for the embedded model
alone: random weights give each of 49,152 tokens about 2e-5 of the mass, so that rounding decides between neighbours."""
LOSS_SCALE = 1024.0  # gradients in float16 are too small without
SCENES, K, TOKENS = 4, 4, 24


class Found(NamedTuple):
    """Of one device in one precision, all on the CPU and in float32."""

    logits: Tensor
    logps: Tensor
    gradient: Tensor
    rollouts: Rollouts


def parity(bench: Bench) -> Rows:
    """Against the CPU in float32: weights in float32, products as autocast rounds them."""
    torch.backends.cudnn.allow_tf32 = False  # the tower's first convolution rounds to 10 bits by default
    for model in MODELS[:1] if bench.is_tiny else MODELS:
        setting = Setting(model, 1, 1, SCENES, K, TOKENS, False, False, "float32", False)
        batch = make_batch(setting, 0)
        policy = _policy(bench, model)
        reference = find(policy, batch, "float32", None)
        policy.to(bench.device)
        for dtype in DTYPES:
            found = find(policy, batch, dtype, reference.rollouts)
            figures = compare(found, reference)
            at_most = {name: BARS[dtype] for name in ("logits", "log_probs", "gradient")}
            at_least = {"same_draws": SAME_DRAWS[dtype]} if model == "embedded" else {}
            yield Row.judged(f"{model} {dtype}", figures, at_most, at_least)


def _policy(bench: Bench, model: str) -> HFPolicy:
    folder = bench.model_folder(model, 1, "float32")
    sampling = Sampling(max_new_tokens=TOKENS)
    return HFPolicy(str(folder), sampling, Prompts(describe=PROMPT), lora=None, freeze_vision=False)


def find(policy: HFPolicy, batch: Batch, dtype: str, rollouts: Rollouts | None) -> Found:
    """What the policy says, on its device.

    Args:
        policy: in float32.
        batch: some scenes.
        dtype: of the products.
        rollouts: whose log-probabilities; None takes those that are drawn.
    """
    device = policy.banned.device
    batch = on_device(batch, device)
    policy.zero_grad()
    with torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32"):
        with torch.no_grad(), uniform_numbers(device):
            drawn = policy.generate(policy.encode(batch), K)
        wanted = drawn if rollouts is None else _moved(rollouts, device)
        prefix = policy.encode(batch)
        logits = policy.vlm.lm_head(policy.states(prefix))
        logps = policy.logprobs(prefix, wanted)
        weights = torch.linspace(-1, 1, K, device=device)[:, None]
        loss = (logps * weights).sum() / wanted.completion_mask.sum()
    (loss * LOSS_SCALE).backward()
    gradient = torch.cat([p.grad.flatten().float().cpu() for p in policy.parameters() if p.grad is not None])
    return Found(
        logits.detach().float().cpu(), logps.detach().float().cpu(), gradient / LOSS_SCALE, _moved(drawn, "cpu")
    )


def compare(found: Found, reference: Found) -> dict[str, float | str]:
    """How far one is from the other."""
    mask = reference.rollouts.completion_mask
    return {
        "logits": _relative(found.logits, reference.logits),
        "log_probs": float((found.logps - reference.logps)[mask].abs().mean()),
        "gradient": _relative(found.gradient, reference.gradient),
        "same_draws": _same(found.rollouts, reference.rollouts),
    }


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def _same(found: Rollouts, wanted: Rollouts) -> float:
    length = min(found.tokens.shape[-1], wanted.tokens.shape[-1])
    mask = wanted.completion_mask
    same = (found.tokens[..., :length] == wanted.tokens[..., :length]) & found.completion_mask[..., :length]
    return float((same & mask[..., :length]).sum() / mask.sum())


def _moved(rollouts: Rollouts, device: Any) -> Rollouts:
    return Rollouts(*(part.to(device) if isinstance(part, Tensor) else part for part in rollouts))


@contextlib.contextmanager
def uniform_numbers(device: torch.device) -> Iterator[None]:
    """The sampler's random numbers from one table on every device: a row per token, asked for one by one or at once."""
    table = torch.rand(TOKENS, SCENES * K, generator=torch.Generator().manual_seed(0)).to(device)
    taken = iter(table)

    def rand(*size: int, **_: Any) -> Tensor:
        if size == tuple(table.shape):
            return table.clone()
        if size == (table.shape[1],):
            return next(taken)
        raise ValueError(
            f"the sampler asked for random numbers of shape {size}, not of {tuple(table.shape)} or its rows"
        )

    original, torch.rand = torch.rand, rand
    try:
        yield
    finally:
        torch.rand = original
