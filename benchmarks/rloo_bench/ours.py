"""One RLOO step of lvad, taken apart."""

import time
from typing import Any

import torch
from torch import Tensor, nn

import lvad.policy.hf as engine
from lvad.modules import RLOOPolicy
from lvad.policy import HFPolicy
from lvad.policy.adapters import Lora
from lvad.policy.sampling import Sampling
from lvad.text import Prompts
from lvad.types import UNLABELLED, Batch, Rollouts, Scores
from rloo_bench.meters import Memory, Phases, count_operations, count_rows
from rloo_bench.setting import PROMPT, Cost, Setting, Side, draw_frames, score


class _FreeReward(nn.Module):
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        rewards = torch.tensor([score(texts) for texts in rollouts.texts], device=rollouts.logps.device)
        return Scores(rewards, {})


def make_policy(side: Side, checkpointing: bool = False) -> HFPolicy:
    """On the setting's device; every completion is as long as allowed."""
    setting = side.setting
    policy = HFPolicy(
        str(side.folder),
        Sampling(max_new_tokens=setting.tokens),
        Prompts(describe=PROMPT),
        Lora() if setting.lora else None,
        freeze_vision=setting.freeze_vision,
        gradient_checkpointing=checkpointing,
        dtype=setting.dtype,
    ).to(setting.device)
    policy.banned[list(policy.end_ids)] = True
    return policy


def make_batch(setting: Setting, step: int) -> Batch:
    """New frames in every step, unless the setting has seen them before; no labels."""
    frames: list[Tensor] = draw_frames(setting, step)
    size = setting.scenes
    labels = [torch.full((size, n), UNLABELLED) for n in (4, 21)]
    names = [f"scene-{i}" for i in range(size)]
    return Batch(names, frames, *labels, [()] * size, [None] * size, names)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """As Lightning hands it to a step."""
    return batch._replace(frames=[frames.to(device) for frames in batch.frames])


def autocast(setting: Setting) -> torch.autocast:
    """As Lightning's bf16-mixed does, where the setting is in bfloat16."""
    return torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.dtype == "bfloat16")


class Ours:
    """An lvad policy with its optimizer.

    Args:
        side: the setting and the model's folder.
        checkpointing: trade a second forward for memory.
    """

    def __init__(self, side: Side, checkpointing: bool) -> None:
        setting = side.setting
        self.setting, self.phases = setting, Phases()
        policy = make_policy(side, checkpointing)
        self.module = RLOOPolicy(policy, _FreeReward(), num_completions=setting.k, kl=None, audit="off").train()
        self.module.log_dict = self.module.log = lambda *_, **__: None  # there is no trainer to log to
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6, fused=True)
        self._watch(policy)

    def _watch(self, policy: Any) -> None:
        count_rows(self.phases, policy.vlm)
        self.phases.wrap(policy._vision_encoder, "encode_images", "vision")
        self.phases.wrap(policy, "logprobs", "forward")
        self.phases.wrap(self.module.reward, "score", "reward")
        self.phases.wrap(policy, "generate", "decode")
        if not hasattr(engine.prompt_pass, "watched"):
            prompt_pass, advance = engine.prompt_pass, engine.Decoder.advance

            def timed(*args: Any, **kwargs: Any) -> Any:
                with Ours.current.phases.phase("prefill"):
                    return prompt_pass(*args, **kwargs)

            def counted(decoder: Any, embeds: Tensor) -> Tensor:
                Ours.current.phases.count("positions", len(embeds))
                return advance(decoder, embeds)

            timed.watched = True  # type: ignore[attr-defined]
            engine.prompt_pass, engine.Decoder.advance = timed, counted
        Ours.current = self

    current: "Ours"

    def prompt_lengths(self) -> tuple[int, ...]:
        """Tokens of each scene's prompt."""
        with torch.no_grad(), autocast(self.setting):
            return self.module.policy.encode(on_device(make_batch(self.setting, 0), self.setting.device)).lengths

    def step(self, step: int, with_memory: bool) -> Cost:
        """One update."""
        Ours.current = self
        batch, memory = make_batch(self.setting, step), Memory()
        self.phases.reset()
        with memory.measure(self.parameters if with_memory else None):
            wall, cpu = time.perf_counter(), time.process_time()
            with self.phases.phase("rest"):
                self._update(batch)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Cost(wall, cpu, memory.peak_mib, dict(self.phases.seconds), dict(self.phases.counts))

    def _update(self, batch: Batch) -> None:
        batch = on_device(batch, self.setting.device)
        with autocast(self.setting):
            loss = self.module.training_step(batch, 0)["loss"]
        with self.phases.phase("backward"):
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradient_operations(self) -> int:
        """Of the prompts' pass, the completions' pass and the backward pass, the tower left out of the forward."""
        policy = self.module.policy
        batch = on_device(make_batch(self.setting, 0), self.setting.device)
        features = policy._vision_encoder.encode_images(policy.vlm, batch.frames)
        original, policy._vision_encoder.encode_images = policy._vision_encoder.encode_images, lambda *_: features
        try:
            with torch.no_grad():
                rollouts = policy.generate(policy.encode(batch), self.setting.k)
            with count_operations() as counter:
                policy.logprobs(policy.encode(batch), rollouts).sum().backward()
        finally:
            policy._vision_encoder.encode_images = original
            self.optimizer.zero_grad()
        return counter.get_total_flops()
