"""The method of lvad on one page: a vision-language model learns to describe scenes from the reward of a CLIP alone.

    python examples/minimal_rloo.py                      # the embedded models on eight synthetic scenes
    python examples/minimal_rloo.py --scenes MY_FOLDER   # a folder per scene with its frames, the oldest first

Transformers, torch, Pillow and open_clip, nothing of lvad. Its engine takes the same gradient in less time and memory
(``tests/examples/test_minimal_rloo.py`` compares the two): prompts are read once for all completions, adapters share
the weights of the reference, and rewards are audited before they are trained on.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "Describe the driving scene."
MAX_NEW_TOKENS = 48


def prompt_of(processor: Any, frames: list[Image.Image]) -> dict[str, Tensor]:
    """The model's inputs for one scene: its M frames, then the question, P tokens in all."""
    content = [*[{"type": "image"}] * len(frames), {"type": "text", "text": PROMPT}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(processor(text=[text], images=[frames], return_tensors="pt"))


def banned_tokens(model: Any, processor: Any) -> list[int]:
    """Tokens that are never drawn: places of images and other special tokens, and rows beyond the vocabulary."""
    tokenizer = processor.tokenizer
    special = {*tokenizer.all_special_ids, model.config.image_token_id} - {tokenizer.eos_token_id}
    return [*special, *range(len(tokenizer), model.config.text_config.vocab_size)]


def freeze_vision(model: Any) -> None:
    """Train the language model alone, as the shipped configurations do."""
    for part in (model.model.vision_model, model.model.connector):
        part.requires_grad_(False)


def sample(model: Any, prompt: dict[str, Tensor], num_completions: int, banned: list[int]) -> tuple[Tensor, Tensor]:
    """K completions of one scene, drawn from the model's own law.

    Returns:
        Tokens int64[K, T], and the mask bool[K, T] that is True up to and including the end of each completion.
    """
    options = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, "suppress_tokens": banned}
    sequences = model.generate(
        **prompt, do_sample=True, num_return_sequences=num_completions, max_new_tokens=MAX_NEW_TOKENS, **options
    )
    tokens = sequences[:, prompt["input_ids"].shape[1] :]
    is_end = tokens == model.generation_config.eos_token_id
    return tokens, is_end.cumsum(1) - is_end.long() == 0


def completion_logps(model: Any, prompt: dict[str, Tensor], tokens: Tensor, mask: Tensor, banned: list[int]) -> Tensor:
    """Log-probability of each completion, float[K]: the sum over its tokens, in the law that they were drawn from."""
    inputs = {name: value.repeat_interleave(len(tokens), 0) for name, value in prompt.items()}
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])  # padding is behind the end: nothing attends to it
    num_prompt = prompt["input_ids"].shape[1]
    logits = model(**inputs).logits[:, num_prompt - 1 : -1]  # each position predicts the next token
    logits[..., banned] = -torch.inf
    logps = logits.log_softmax(-1).gather(2, tokens.unsqueeze(2)).squeeze(2)
    return torch.where(mask, logps, 0.0).sum(1)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Each reward less the mean of its K - 1 siblings' (Eq. 1 of the paper), float[K]."""
    return (len(rewards) * rewards - rewards.sum()) / (len(rewards) - 1)


def rloo_loss(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The loss of one scene, whose gradient is the policy gradient of reward less beta KL(policy || reference).

    Args:
        logps: float[K] of the policy, differentiable.
        ref_logps: float[K] of the frozen start.
        rewards: float[K].
        beta: reward per nat of KL.
    """
    kl = (logps - ref_logps).detach()  # of one sample: an unbiased estimate
    return -(leave_one_out(rewards - beta * kl) * logps).sum()


class ClipReward:
    """The cosine between a scene and a sentence, by a frozen CLIP."""

    def __init__(self, folder: Path) -> None:
        parts: Any = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.clip, self.transform = parts[0].eval(), parts[2]
        self.tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.no_grad()
    def __call__(self, frames: list[Image.Image], texts: list[str]) -> Tensor:
        """float[K], the mean embedding of M frames against each of K texts."""
        pixels = torch.stack([self.transform(frame) for frame in frames])
        scene = self.clip.encode_image(pixels, normalize=True).mean(0)
        return self.clip.encode_text(self.tokenizer(texts), normalize=True) @ (scene / scene.norm())


def train(scenes: list[list[Image.Image]], args: argparse.Namespace) -> None:
    """Steps over all scenes; prints the mean reward of each, and what is said of the last scene."""
    torch.manual_seed(args.seed)
    processor = AutoProcessor.from_pretrained(args.model)
    policy = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32).eval()  # no dropout
    freeze_vision(policy)
    reference = copy.deepcopy(policy).requires_grad_(False)
    reward = ClipReward(args.clip)
    optimizer = torch.optim.AdamW(policy.parameters(), args.lr, weight_decay=0.0)  # skips what has no gradient
    banned = banned_tokens(policy, processor)
    for step in range(args.steps):
        means = []
        for frames in scenes:
            prompt = prompt_of(processor, frames)
            tokens, mask = sample(policy, prompt, args.num_completions, banned)
            texts = processor.batch_decode(tokens, skip_special_tokens=True)
            rewards = reward(frames, texts)
            logps = completion_logps(policy, prompt, tokens, mask, banned)
            with torch.no_grad():
                ref_logps = completion_logps(reference, prompt, tokens, mask, banned)
            (rloo_loss(logps, ref_logps, rewards, args.beta) / len(scenes)).backward()
            means.append(rewards.mean())
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step:3d}  reward {torch.stack(means).mean():.4f}  {texts[0].strip()}", flush=True)


def main() -> None:
    """Read the command line and the scenes, and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "checkpoints" / "vlm")
    parser.add_argument("--clip", type=Path, default=ROOT / "checkpoints" / "clip-reward")
    parser.add_argument("--scenes", type=Path, default=ROOT / "examples" / "scenes")
    for name, value in {"steps": 20, "num_completions": 8, "lr": 5e-4, "beta": 0.05, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    args = parser.parse_args()
    folders = sorted(folder for folder in args.scenes.iterdir() if folder.is_dir())
    train([[Image.open(file).convert("RGB") for file in sorted(folder.iterdir())] for folder in folders], args)


if __name__ == "__main__":
    main()
