"""The models that ``lvad export`` writes; each is read again and must give the same results."""

import copy
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import open_clip
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig

from lvad.commands.accelerators import accelerator
from lvad.commands.export_check import (
    LogitDifference,
    Trial,
    check_difference,
    check_texts,
    greedy_generation_config,
    load_plain,
    load_processor,
    merge_difference,
    plain_texts,
    run_trials,
)
from lvad.commands.trained_run import TrialScenes
from lvad.errors import DataError
from lvad.evaluation.clip_similarity import interpolated_weights
from lvad.modules import ActionSFT, CLIPReward
from lvad.modules.action_sft import ANSWER
from lvad.policy import HFPolicy
from lvad.policy.adapters import float_copy, merged, save_adapter, start_of
from lvad.policy.four_bits import is_in_four_bits, multiply_in_float32
from lvad.report.model_card import Kind
from lvad.taxonomy import Taxonomy

Dtype = Literal["float32", "bfloat16", "float16"]

_COSINE_TOLERANCE: Final = 1e-5


class ExportResult(NamedTuple):
    """The written models, and the checks that they passed."""

    kind: Kind
    dtype: str
    """Type of the weights; of adapters, that of the base model that they were trained on."""
    checks: list[str]
    """One sentence per check."""


class _ModelPart(NamedTuple):
    """One of the models of an export."""

    name: str
    """Name of its folder inside the export; empty where it is the only model."""
    model: Any
    """A model of plain transformers, or of peft on such a one; float32 until it is rounded."""
    trials: list[Trial]


def write_policy(module: nn.Module, shown: TrialScenes, folder: Path, dtype: Dtype) -> ExportResult:
    """Write a whole policy, or both stages where answers follow descriptions.

    Args:
        module: a stage with an ``HFPolicy``.
        shown: what to try it on.
        folder: where to; it exists and is empty.
        dtype: of the written weights; adapters stay float32.

    Raises:
        DataError: if what is written says something else than the policy.
    """
    policy = _policy(module)
    _prepare(policy)
    if isinstance(module, ActionSFT) and module.describer.is_policy:
        difference, parts = None, _two_stages(module, policy, shown.frames)
    else:
        trials = run_trials(policy, shown.frames, [_query(module)] * len(shown.frames))
        whole = _plain_model(merged(policy.model))
        difference, parts = merge_difference(policy, whole, trials), [_ModelPart("", whole, trials)]
        check_difference(difference)
    checks = [] if difference is None else [_difference_sentence(difference, len(shown.frames), shown.source)]
    generation, processor = greedy_generation_config(policy), _processor(policy)
    for part in parts:
        checks += _write(part, folder, dtype, generation, processor)
    kind: Kind = "model" if len(parts) == 1 else "stages"
    if isinstance(parts[-1].model, PeftModel):
        kind = "adapter_stages"
    same = "the greedy texts of plain transformers on the written files are identical"
    return ExportResult(kind, dtype, [*checks, f"{len(shown.frames)} prompts with {shown.source}: {same}"])


def write_adapter(module: nn.Module, shown: TrialScenes, folder: Path) -> ExportResult:
    """Write the adapters only.

    Raises:
        DataError: for a policy without adapters, or if they say something else on the model they were trained on.
    """
    policy = _policy(module)
    if not isinstance(policy.model, PeftModel):
        raise DataError("this run trained all weights and has no adapters; leave --adapter out to export the model")
    if is_in_four_bits(policy):
        raise DataError("these adapters were trained on a base in 4 bits; leave --adapter out to export the model")
    dtype = str(policy.vlm.dtype).removeprefix("torch.")
    _prepare(policy)
    if isinstance(module, ActionSFT) and module.describer.is_policy:
        trials = _two_stages(module, policy, shown.frames)[-1].trials
    else:
        trials = run_trials(policy, shown.frames, [_query(module)] * len(shown.frames))
    save_adapter(policy.model, folder, policy.source)
    generation = greedy_generation_config(policy)
    generation.save_pretrained(folder)
    again = load_plain(policy.source, folder, dtype).float().to(accelerator())
    found = plain_texts(again, load_processor(policy.source), trials, generation)
    check_texts([trial.text for trial in trials], found, "the written adapter on its base model")
    same = "the greedy texts of plain transformers and peft on the base model are identical"
    return ExportResult("adapter", dtype, [f"{len(trials)} prompts with {shown.source}: {same}"])


def write_clip(module: CLIPReward, shown: TrialScenes, folder: Path, dtype: Dtype, taxonomy: Taxonomy) -> ExportResult:
    """Write a tuned CLIP, and check it on the texts of the reasons.

    Raises:
        DataError: if plain open_clip finds other cosines in what is written.
    """
    texts = list(taxonomy.reason_texts)
    with interpolated_weights(module.clip, module.start, module.share.item()), torch.no_grad():
        before = module.clip.embed_frames(shown.frames) @ module.clip.embed_texts(texts).T
    module.export(folder)
    _check_cosines(before, _open_clip_cosines(module, shown, folder, texts), "the written CLIP")
    checks = [
        f"{before.numel()} cosines of {shown.source} and the reasons' texts: plain open_clip on the written files "
        f"gives the same within {_COSINE_TOLERANCE:g}"
    ]
    if dtype != "float32":
        with torch.no_grad():
            weights: dict[str, Tensor] = module.clip.clip.state_dict()
            for values in weights.values():
                values.copy_(values.to(getattr(torch, dtype)))
            rounded = module.clip.embed_frames(shown.frames) @ module.clip.embed_texts(texts).T
        module.clip.save_pretrained(folder, dtype)
        _check_cosines(rounded, _open_clip_cosines(module, shown, folder, texts), f"the CLIP written as {dtype}")
        checks.append(f"rounding to {dtype} moves a cosine by at most {(rounded - before).abs().max():.2g}")
    return ExportResult("reward", dtype, checks)


def _two_stages(module: ActionSFT, policy: HFPolicy, frames: list[Tensor]) -> list[_ModelPart]:
    question = policy.prompts.question(module.taxonomy)
    with policy.as_reference() as start:
        described = run_trials(start.float(), frames, [policy.prompts.describe] * len(frames))
        first = _plain_model(start_of(start.model))
    questions = [f"{trial.text} {question}".strip() for trial in described]
    answered = run_trials(policy, frames, questions)
    second = float_copy(policy.model)
    return [_ModelPart("", first, described), _ModelPart(ANSWER, _plain_model(second), answered)]


def _write(part: _ModelPart, folder: Path, dtype: Dtype, generation: GenerationConfig, processor: Any) -> list[str]:
    """Check that a model completes as the policy does, round it, write it, and check what plain transformers reads."""
    said = [trial.text for trial in part.trials]
    expected = plain_texts(part.model, processor, part.trials, generation)
    check_texts(said, expected, "the model in plain transformers, before it is written,")
    checks = []
    if dtype != "float32":  # then the policy itself is no measure of what is read again
        _round_weights(part.model, dtype)
        expected = plain_texts(part.model, processor, part.trials, generation)
        changed = sum(one != other for one, other in zip(said, expected, strict=True))
        what = f"{part.name}s" if part.name else "texts"
        checks = [f"rounding to {dtype} changes {changed} of {len(said)} greedy {what}"]
    _save(part, folder / part.name, generation, processor)
    is_adapter = isinstance(part.model, PeftModel)
    again = load_plain(folder, folder / part.name) if is_adapter else load_plain(folder / part.name)
    if again.dtype != getattr(torch, dtype):
        raise DataError(f"the written model reads as {again.dtype}, not as {dtype}; nothing was written")
    found = plain_texts(
        again.to(accelerator()), load_processor(folder), part.trials, GenerationConfig.from_pretrained(folder)
    )
    check_texts(expected, found, "the written folder, read by plain transformers,")
    return checks


def _save(part: _ModelPart, folder: Path, generation: GenerationConfig, processor: Any) -> None:
    if isinstance(part.model, PeftModel):
        save_adapter(part.model, folder)
        (folder / "README.md").unlink(missing_ok=True)  # peft's own, which would stand beside the model card
        return
    part.model.generation_config = generation
    part.model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _policy(module: nn.Module) -> HFPolicy:
    policy = getattr(module, "policy", None)
    if not isinstance(policy, HFPolicy):
        known = "CLIPReward, and RLOOPolicy and ActionSFT with an HFPolicy"
        raise DataError(f"a run of {type(module).__name__} cannot be exported; known are {known}")
    return policy


def _query(module: nn.Module) -> str:
    """Make the prompts of a stage that answers from the frames only."""
    prompts = _policy(module).prompts
    if isinstance(module, ActionSFT) and module.target != "caption":
        return prompts.question(module.taxonomy)
    return prompts.describe


def _prepare(policy: HFPolicy) -> None:
    """Move a policy to the accelerator in float32, in which adapters are merged and texts can be compared."""
    policy.float().to(accelerator()).eval()
    multiply_in_float32(policy)


def _plain_model(model: Any) -> Any:
    """Return the model with transformers' own attention in place of lvad's."""
    whole: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    whole.set_attn_implementation("sdpa")
    return model.to(accelerator()).eval()


def _processor(policy: HFPolicy) -> Any:
    """Return the processor with padding before the prompt, as generation in batches needs it."""
    processor = copy.deepcopy(policy.processor)
    processor.tokenizer.padding_side = "left"
    return processor


def _round_weights(model: Any, dtype: Dtype) -> None:
    """Round the weights in place; adapters, which are small, stay in float32."""
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(getattr(torch, dtype))


def _difference_sentence(difference: LogitDifference, num_prompts: int, source: str) -> str:
    what, moved = "copying", ""
    if difference.moved:
        what, moved = "merging", f"; the adapters move one by up to {difference.moved:.2g}"
    return (
        f"{num_prompts} prompts with {source}: {what} moves a logit by at most {difference.largest:.1e}, allowed are "
        f"{difference.allowed:.1e}{moved}"
    )


@torch.no_grad()
def _open_clip_cosines(module: CLIPReward, shown: TrialScenes, folder: Path, texts: list[str]) -> Tensor:
    """Compute the cosines float[B, R] of the written files with open_clip's own model and tokenizer."""
    model: Any = open_clip.create_model_and_transforms(f"local-dir:{folder}")[0].eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    scenes = [model.encode_image(module.clip.preprocess(frames), normalize=True).mean(0) for frames in shown.frames]
    images = nn.functional.normalize(torch.stack(scenes), dim=-1)
    return images @ model.encode_text(tokens, normalize=True).T


def _check_cosines(expected: Tensor, found: Tensor, where: str) -> None:
    difference = (expected - found).abs().max().item()
    if not difference <= _COSINE_TOLERANCE:  # not a number is refused too
        problem = f"differ by up to {difference:.3g}, allowed are {_COSINE_TOLERANCE:g}"
        raise DataError(f"cosines of {where}, read by plain open_clip, {problem}; nothing was written")
