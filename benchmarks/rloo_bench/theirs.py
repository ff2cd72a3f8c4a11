"""One step of TRL's trainers on the same work, taken apart by the same clock."""

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from rloo_bench.meters import Memory, Phases, count_rows
from rloo_bench.setting import PROMPT, Cost, Side, as_pictures, draw_frames, score

os.environ.setdefault("CI", "1")  # no telemetry


def train(
    side: Side, algorithm: str, checkpointing: bool, steps: int, between: Callable[[int], None], folder: str
) -> list[Cost]:
    """TRL's own ``train()``: the costs of its steps, with ``between`` called after each.

    Args:
        side: the setting and the model's folder.
        algorithm: ``rloo``: RLOOTrainer; ``grpo``: GRPOTrainer with ``dr_grpo`` and unscaled rewards, whose gradient
            is RLOO's times a constant, and which needs no second pass for the old log-probabilities.
        checkpointing: TRL's default is True.
        steps: how many; memory is measured in the last, whose time is not to be compared.
        between: given the number of the step.
        folder: for what TRL writes.
    """
    from datasets import Dataset
    from transformers import TrainerCallback

    setting = side.setting
    rows = [
        {"prompt": [{"role": "user", "content": PROMPT}], "images": as_pictures(frames)}
        for step in range(steps)
        for frames in draw_frames(setting, step)
    ]
    phases = Phases()
    trainer = _trainer(side, algorithm, checkpointing, steps, Dataset.from_list(rows), folder)
    _watch(trainer, phases)
    costs: list[Cost] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            phases.reset()
            self.memory = Memory()
            self.measuring = self.memory.measure(trainer.model.parameters() if len(costs) == steps - 1 else None)
            self.measuring.__enter__()
            self.rest = phases.phase("rest")
            self.rest.__enter__()
            self.wall, self.cpu = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
            self.rest.__exit__(None, None, None)
            self.measuring.__exit__(None, None, None)
            costs.append(Cost(wall, cpu, self.memory.peak_mib, dict(phases.seconds), dict(phases.counts)))
            between(len(costs) - 1)

    trainer.add_callback(Clock())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return costs


def _trainer(side: Side, algorithm: str, checkpointing: bool, steps: int, dataset: Any, folder: str) -> Any:
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    from lvad.policy.adapters import Lora

    setting, lora = side.setting, Lora()
    model = AutoModelForImageTextToText.from_pretrained(
        side.folder, dtype=getattr(torch, setting.dtype), attn_implementation="sdpa"
    )
    if setting.freeze_vision:
        model.model.vision_model.requires_grad_(False)
        model.model.connector.requires_grad_(False)
    make_config, make, own = {
        "rloo": (RLOOConfig, RLOOTrainer, {}),
        "grpo": (GRPOConfig, GRPOTrainer, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    }[algorithm]
    config = make_config(
        output_dir=folder,
        use_cpu=setting.device.type == "cpu",
        bf16=setting.dtype == "bfloat16",
        gradient_checkpointing=checkpointing,
        per_device_train_batch_size=setting.scenes * setting.k,
        num_generations=setting.k,
        beta=0.0,
        num_iterations=1,
        max_completion_length=setting.tokens,
        generation_kwargs={"min_new_tokens": setting.tokens},
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        max_steps=steps,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
        **own,
    )
    processor = AutoProcessor.from_pretrained(side.folder, padding_side="left")
    return make(
        model=model,
        reward_funcs=lambda completions, **_: score([completion[0]["content"] for completion in completions]),
        args=config,
        train_dataset=dataset,
        processing_class=processor,
        peft_config=LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets)
        if setting.lora
        else None,
    )


def _watch(trainer: Any, phases: Phases) -> None:
    model = trainer.model
    vlm = model.get_base_model() if hasattr(model, "get_base_model") else model
    count_rows(phases, vlm)

    def of_text(*_: Any, **kwargs: Any) -> str:
        if not phases.inside("decode"):
            return "forward" if torch.is_grad_enabled() else "old log-probs"
        given = kwargs.get("inputs_embeds")
        given = kwargs["input_ids"] if given is None else given
        return "prefill" if given.shape[1] > 1 else "decode"

    phases.wrap(vlm.model, "get_image_features", "vision")
    phases.wrap(vlm.model.text_model, "forward", of_text)
    phases.wrap(trainer, "_generate_single_turn", "decode")
    phases.wrap(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda *_, **__: "forward" if torch.is_grad_enabled() else "old log-probs",
    )
    phases.wrap(trainer, "_calculate_rewards", "reward")
    phases.wrap(trainer.accelerator, "backward", "backward")
