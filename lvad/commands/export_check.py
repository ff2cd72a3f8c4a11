"""The checks of ``lvad export``: the exported model must answer the same prompts as the policy does."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from peft import PeftModel
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from lvad.errors import DataError
from lvad.policy.hf import HFPolicy
from lvad.policy.tokens import chat_inputs
from lvad.types import UNLABELLED, Batch

TOLERANCE: Final = 1e-4
"""Tolerance of a logit, relative to the largest one: merging rounds in float32, over many layers."""


class Trial(NamedTuple):
    """One prompt with its frames, and the policy's completion of it."""

    frames: Tensor
    """uint8[M, 3, H, W]."""
    question: str
    text: str
    """The greedy completion, without its end token."""
    tokens: Tensor
    """int64[T], with the end token."""


class LogitDifference(NamedTuple):
    """How much merging the adapters changes the logits of prompts and answers."""

    largest: float
    scale: float
    """Absolute value of the largest logit."""
    moved: float
    """How much the adapters themselves change the logits; 0 without adapters."""

    @property
    def allowed(self) -> float:
        """Return how much rounding may change a logit."""
        return TOLERANCE * self.scale


def run_trials(policy: HFPolicy, frames: list[Tensor], questions: list[str]) -> list[Trial]:
    """Generate the policy's greedy completions, one scene at a time."""
    trials = []
    for shown, question in zip(frames, questions, strict=True):
        said = policy.generate(policy.encode(_batch(shown), [question]), 1, greedy=True)
        trials.append(Trial(shown, question, said.texts[0][0], said.tokens[0, 0, : int(said.completion_mask.sum())]))
    return trials


def greedy_generation_config(policy: HFPolicy) -> GenerationConfig:
    """Make a greedy configuration with the run's length, and without tokens that the policy may not write."""
    banned = policy.banned.nonzero().flatten().tolist()
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=policy.sampling.max_new_tokens,
        bos_token_id=policy.processor.tokenizer.bos_token_id,
        eos_token_id=policy.vlm.generation_config.eos_token_id,
        pad_token_id=policy.pad_id,
        suppress_tokens=banned or None,
    )


@torch.no_grad()
def merge_difference(policy: HFPolicy, merged: Any, trials: list[Trial]) -> LogitDifference:
    """Compare the policy's logits on prompts and answers with those of its merged copy."""
    rows = []
    for trial in trials:
        inputs = chat_inputs(policy.processor, _batch(trial.frames), [trial.question]).to(policy.vlm.device)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], trial.tokens.unsqueeze(0)], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:  # 0 is the kind of words
            kinds = inputs["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = nn.functional.pad(kinds, (0, len(trial.tokens)))
        before = policy.vlm(**inputs).logits
        start = before
        if isinstance(policy.model, PeftModel):
            with policy.model.disable_adapter():
                start = policy.vlm(**inputs).logits
        after = merged(**inputs).logits
        rows.append(torch.stack([part.abs().max() for part in (after - before, before, start - before)]))
    return LogitDifference(*torch.stack(rows).amax(0).tolist())  # amax keeps what is not a number, max() would not


def check_difference(difference: LogitDifference) -> None:
    """Refuse a merged model whose logits differ too much.

    Raises:
        DataError: with the numbers.
    """
    if not difference.largest <= difference.allowed:  # not a number is refused too
        raise DataError(
            f"merging changed the model: a logit moved by {difference.largest:.3g}, allowed are "
            f"{difference.allowed:.3g} ({TOLERANCE:g} of the largest logit, {difference.scale:.3g}); "
            "nothing was written"
        )


def load_plain(folder: Path | str, adapter: Path | None = None, dtype: str = "auto") -> Any:
    """Load a folder, and an adapter folder on it, with plain transformers and peft."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    return (model if adapter is None else PeftModel.from_pretrained(model, str(adapter))).eval()


def load_processor(folder: Path | str) -> Any:
    """Load a folder's processor with plain transformers."""
    return AutoProcessor.from_pretrained(folder)


@torch.no_grad()
def plain_texts(model: Any, processor: Any, trials: list[Trial], generation: GenerationConfig) -> list[str]:
    """Generate greedy texts as the model card's snippet does, without any code of lvad."""
    return [_plain_text(model, processor, trial.frames, trial.question, generation) for trial in trials]


def check_texts(expected: list[str], found: list[str], where: str) -> None:
    """Refuse texts that differ.

    Args:
        expected: a text per prompt.
        found: likewise.
        where: what said them, in words.

    Raises:
        DataError: with their number and the first pair.
    """
    pairs = list(zip(expected, found, strict=True))
    different = [i for i, (one, other) in enumerate(pairs) if one != other]
    if different:
        one, other = pairs[different[0]]
        raise DataError(
            f"{where} says something else to {len(different)} of {len(pairs)} prompts, first to number "
            f"{different[0] + 1}: {other[:160]!r} instead of {one[:160]!r}; nothing was written"
        )


def _plain_text(model: Any, processor: Any, frames: Tensor, question: str, generation: GenerationConfig) -> str:
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    content = [*[{"type": "image"}] * len(pictures), {"type": "text", "text": question}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[chat], images=[pictures], return_tensors="pt").to(model.device, model.dtype)
    tokens = model.generate(**inputs, generation_config=generation)[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()


def _batch(frames: Tensor) -> Batch:
    unlabelled = torch.full((1, 1), UNLABELLED)
    return Batch(["scene"], [frames], unlabelled, unlabelled, [()], [None], ["scene"])
