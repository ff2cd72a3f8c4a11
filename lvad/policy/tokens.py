"""Token ids: of prompts with frames, of completions, of ends, and the text of each token in the vocabulary."""

from itertools import compress
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from lvad.policy.families.family import FrameEncoder, FrameTokens
from lvad.types import Batch, Rollouts


def chat_inputs(processor: Any, batch: Batch, questions: list[str]) -> BatchFeature:
    """Process B scenes' frames and questions with transformers' processor, padded; a reference for ``PromptIds``."""
    texts = [_chat(processor, len(frames), question) for frames, question in zip(batch.frames, questions, strict=True)]
    images = [list(frames) for frames in batch.frames]
    return processor(text=texts, images=images, padding=True, return_tensors="pt")


class PromptIds:
    """Writes frames and a question as token ids, without reading the frames' pixels.

    The tokens of a frame depend only on its size.

    Args:
        processor: of the model.
        frame_encoder: knows the tokens of a frame.
    """

    def __init__(self, processor: Any, frame_encoder: FrameEncoder) -> None:
        self._processor, self.frame_encoder = processor, frame_encoder

    def __call__(self, question: str, frames: Tensor) -> tuple[Tensor, FrameTokens]:
        """Write a prompt of frames uint8[M, 3, H, W] and a question.

        Returns:
            The ids int64[P], which are those of ``chat_inputs``, and the tokens of each frame among them.

        Raises:
            ValueError: if the question contains the image token.
        """
        text = _chat(self._processor, len(frames), question)
        frame_tokens = self.frame_encoder.frame_tokens(len(frames), *frames.shape[2:])
        ids: list[int] = []
        num_images = 0
        for token in self._processor.tokenizer(text)["input_ids"]:
            is_image = token == self._processor.image_token_id
            num_images += is_image
            ids += frame_tokens.ids if is_image else [token]
        if num_images != len(frames):
            raise ValueError(f"the question {question!r} must not contain {self._processor.image_token!r}")
        return torch.tensor(ids), frame_tokens

    def num_frame_tokens(self, height: int, width: int, num_frames: int = 1) -> int:
        """The number of tokens of one frame in a prompt with ``num_frames`` frames of this size."""
        return len(self.frame_encoder.frame_tokens(num_frames, height, width).ids)


def _chat(processor: Any, num_frames: int, question: str) -> str:
    content = [*[{"type": "image"}] * num_frames, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def decode_completions(tokenizer: Any, tokens: Tensor, completion_mask: Tensor) -> list[list[str]]:
    """Decode tokens int64[B, K, T], where the mask bool[B, K, T] is True, as B times K texts without special tokens."""
    rows = zip(tokens.tolist(), completion_mask.tolist(), strict=True)
    kept = [[list(compress(*row)) for row in zip(*scene, strict=True)] for scene in rows]
    return [[text.strip() for text in tokenizer.batch_decode(scene, skip_special_tokens=True)] for scene in kept]


def end_tokens(tokenizer: Any, generation_config: Any) -> tuple[int, ...]:
    """All tokens that end a completion: the tokenizer's own first, then those that the generation config adds."""
    named = generation_config.eos_token_id
    added = named if isinstance(named, list) else [] if named is None else [named]
    own = tokenizer.eos_token_id
    return (own, *(end for i, end in enumerate(added) if end not in (own, *added[:i])))


def banned_tokens(tokenizer: Any, config: Any, end_ids: tuple[int, ...]) -> Tensor:
    """bool[V], True on special tokens except the ends, on image and video tokens, and on ids without a token."""
    banned = torch.zeros(config.text_config.vocab_size, dtype=torch.bool)
    banned[len(tokenizer) :] = True  # vocabularies are padded to a round size
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    # A drawn image token would make the model expect a frame there; it need not be a special token.
    frame_ids = [getattr(config, name, None) for name in ("image_token_id", "video_token_id")]
    banned[torch.tensor([*special, *tokenizer.all_special_ids, *(i for i in frame_ids if i is not None)])] = True
    banned[list(end_ids)] = False
    return banned


def token_texts(tokenizer: Any, banned: Tensor) -> list[str]:
    """The text of each of the V tokens inside a text; empty for special and banned tokens.

    Each token is decoded alone: in a byte-level vocabulary a whole text is its tokens' bytes one after the other. A
    token that holds part of a character gives U+FFFD, which no answer contains.
    """
    ids = [[i] for i in range(min(len(banned), len(tokenizer)))]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    texts += [""] * (len(banned) - len(texts))
    return ["" if is_banned else text for text, is_banned in zip(texts, banned.tolist(), strict=True)]


def write_targets(tokenizer: Any, texts: list[list[str]], end_id: int, pad_id: int, device: torch.device) -> Rollouts:
    """Write given completions, K per scene, as rollouts with zeros for their log-probabilities.

    Raises:
        ValueError: if scenes have different numbers of texts.
    """
    if len({len(row) for row in texts}) != 1:
        raise ValueError(f"every scene needs as many texts, got {[len(row) for row in texts]}")
    ids = [[[*tokenizer(t, add_special_tokens=False)["input_ids"], end_id] for t in row] for row in texts]
    width = max(len(t) for row in ids for t in row)
    tokens = [[t + [pad_id] * (width - len(t)) for t in row] for row in ids]
    is_token = [[[True] * len(t) + [False] * (width - len(t)) for t in row] for row in ids]
    mask = torch.tensor(is_token, device=device)
    zeros = torch.zeros(mask.shape, device=device)
    return Rollouts(torch.tensor(tokens, device=device), mask, zeros, zeros, ~mask.any(-1), texts)


def without_end(targets: Rollouts) -> Tensor:
    """bool[B, K, T], True on the tokens of given texts but not on their end."""
    mask = targets.completion_mask
    return mask & (mask.flip(-1).cumsum(-1).flip(-1) > 1)
