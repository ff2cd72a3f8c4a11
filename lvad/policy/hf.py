"""A SmolVLM, SmolVLM2 or Idefics3 checkpoint as a policy: one image encoding and one prefill for K completions."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache

from lvad.assets import resolve_model
from lvad.ops import gather_logps
from lvad.policy.adapters import Lora, adapted, merged, save_adapter, save_start
from lvad.policy.decoding import Ending, draw_completions
from lvad.policy.grammar import AnswerGrammar, TokenGrammar, Walk
from lvad.policy.sampling import Sampling, log_density
from lvad.policy.shared_prefix import last_real, pack, prefix_positions, unpack
from lvad.policy.tokens import banned_tokens, chat_inputs, decode, token_texts, write_targets
from lvad.text import Prompts
from lvad.types import Batch, Prefix, Rollouts

MODEL_TYPES = ("idefics3", "smolvlm")
_HEAD_ROWS = 2048  # completion positions per slice of the vocabulary projection


class HFPolicy(nn.Module):
    """A vision-language model by name or folder.

    Args:
        model: ``embedded/vlm``, a folder, or a hub name of an Idefics3 / SmolVLM / SmolVLM2 checkpoint.
        sampling: the law of the completions.
        prompts: what the model is asked.
        lora: adapters to train; None trains the weights themselves, and KL then needs a second model.
        freeze_vision: keep the vision tower and the connector as they are, and never differentiate them.
        gradient_checkpointing: trade a second forward for the memory of activations.
        dtype: of the weights, as transformers names them.

    Raises:
        ValueError: for a model type without a known layout.
    """

    banned: Tensor
    """bool[V], True on tokens that can never be drawn."""

    def __init__(
        self,
        model: str = "embedded/vlm",
        sampling: Sampling = Sampling(),
        prompts: Prompts = Prompts(),
        lora: Lora | None = Lora(),
        freeze_vision: bool = True,
        gradient_checkpointing: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        self.source = source = resolve_model(model)
        load = AutoModelForImageTextToText.from_pretrained
        vlm = load(source, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        if vlm.config.model_type not in MODEL_TYPES:
            raise ValueError(f"model {model!r} is of type {vlm.config.model_type!r}; known: {MODEL_TYPES}")
        self.processor = AutoProcessor.from_pretrained(source)
        self.processor.tokenizer.padding_side = "right"
        self.sampling, self.prompts = sampling, prompts
        if freeze_vision:
            vlm.model.vision_model.requires_grad_(False)
            vlm.model.connector.requires_grad_(False)
        if gradient_checkpointing:
            vlm.model.text_model.gradient_checkpointing_enable()
        self.model: Any = adapted(vlm, lora) if lora else vlm
        self._reference: list[HFPolicy] = []  # in a list, so that it is no submodule and enters no checkpoint
        banned = banned_tokens(self.processor.tokenizer, vlm.config.text_config.vocab_size, self.end_id)
        self.register_buffer("banned", banned, persistent=False)
        self._grammars: dict[AnswerGrammar, TokenGrammar] = {}
        self.train()  # transformers loads in evaluation mode, in which gradient checkpointing is ignored

    @property
    def vlm(self) -> Any:
        """The transformers model, adapters in place."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def end_id(self) -> int:
        """The token that ends a completion."""
        return self.processor.tokenizer.eos_token_id

    @property
    def pad_id(self) -> int:
        """The token that fills the places after the end."""
        pad = self.processor.tokenizer.pad_token_id
        return self.end_id if pad is None else pad

    def encode(self, batch: Batch, queries: list[str] | None = None) -> Prefix:
        """Encode frames and prompt of each scene once.

        Args:
            batch: B scenes.
            queries: B prompts; None asks the stage-1 prompt of every scene.

        Raises:
            RuntimeError: if image features and image tokens do not match in number.
        """
        vlm = self.vlm
        queries = queries or [self.prompts.describe] * len(batch.ids)
        inputs = chat_inputs(self.processor, batch, queries).to(vlm.device)
        ids, pixels = inputs["input_ids"], inputs["pixel_values"]
        is_image = ids == vlm.config.image_token_id
        sees_gradient = self._trains(vlm.model.vision_model, vlm.model.connector)
        with torch.set_grad_enabled(torch.is_grad_enabled() and sees_gradient):
            output = vlm.model.get_image_features(pixels, inputs.get("pixel_attention_mask"))
        features = output.pooler_output
        features = torch.cat(list(features)) if isinstance(features, list | tuple) else features
        features = features.reshape(-1, features.shape[-1])
        if len(features) != int(is_image.sum()):
            raise RuntimeError(f"{len(features)} image features for {int(is_image.sum())} image tokens in {batch.ids}")
        embeds = vlm.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter(is_image.unsqueeze(-1), features.to(embeds.dtype))
        return Prefix(embeds, inputs["attention_mask"].bool())

    @staticmethod
    def _trains(*modules: nn.Module) -> bool:
        return any(p.requires_grad for module in modules for p in module.parameters())

    @torch.no_grad()
    def generate(
        self,
        prefix: Prefix,
        num_completions: int,
        greedy: bool = False,
        grammar: AnswerGrammar | None = None,
        begin: Rollouts | None = None,
    ) -> Rollouts:
        """Prefill each prompt once, then draw K completions from that cache.

        Args:
            prefix: B encoded prompts.
            num_completions: K.
            greedy: take the most probable token of the density at each step.
            grammar: draw its answers alone, each complete within ``max_new_tokens``. The mask is part of the
                density, so the log-probability methods must be given the same grammar.
            begin: tokens that the completions start with, B times K, as of ``targets`` without their end.

        Raises:
            ValueError: if ``max_new_tokens`` is too few for the grammar's shortest answer.
        """
        was_training = self.training
        self.eval()  # checkpointing layers in training mode drop the cache
        try:
            return self._sample(prefix, num_completions, greedy, grammar, begin)
        finally:
            self.train(was_training)

    def _sample(
        self, prefix: Prefix, num_completions: int, greedy: bool, grammar: AnswerGrammar | None, begin: Rollouts | None
    ) -> Rollouts:
        hidden, cache = self._prefill(prefix, num_completions)
        seen = prefix.prefix_mask.long().repeat_interleave(num_completions, 0)
        position = seen.sum(1, keepdim=True)

        def density(hidden: Tensor, walk: Walk | None) -> Tensor:
            banned = walk.banned(hidden.device) if walk else self.banned
            return log_density(self.vlm.lm_head(hidden), self.sampling, banned)

        def advance(token: Tensor) -> Tensor:
            nonlocal seen, position
            seen = torch.cat([seen, torch.ones_like(position)], 1)
            output = self.vlm.model.text_model(
                input_ids=token[:, None], attention_mask=seen, position_ids=position, past_key_values=cache
            )
            position = position + 1
            return output.last_hidden_state[:, 0]

        ending = Ending(self.end_id, self.pad_id, self.sampling.max_new_tokens)
        walk = grammar and self._tokens_of(grammar).start(len(hidden), ending.max_new_tokens)
        drawn = draw_completions(hidden, density, advance, ending, greedy, walk, begin)
        tokens, mask, logps, entropies, is_truncated = (part.unflatten(0, (-1, num_completions)) for part in drawn)
        return Rollouts(tokens, mask, logps, entropies, is_truncated, decode(self.processor.tokenizer, tokens, mask))

    def _prefill(self, prefix: Prefix, num_completions: int) -> tuple[Tensor, DynamicCache]:
        """float[B K, D], the states that predict the first tokens, and the cache behind them, K times each."""
        cache = DynamicCache(config=self.vlm.config.text_config)
        output = self.vlm.model.text_model(
            inputs_embeds=prefix.embeds,
            attention_mask=prefix.prefix_mask.long(),
            position_ids=prefix_positions(prefix.prefix_mask),
            past_key_values=cache,
            use_cache=True,
        )
        cache.batch_repeat_interleave(num_completions)
        return last_real(output.last_hidden_state, prefix.prefix_mask).repeat_interleave(num_completions, 0), cache

    def _tokens_of(self, grammar: AnswerGrammar) -> TokenGrammar:
        if grammar not in self._grammars:
            texts = token_texts(self.processor.tokenizer, self.banned)
            self._grammars[grammar] = TokenGrammar(grammar, texts, self.end_id)
        return self._grammars[grammar]

    def logprobs(self, prefix: Prefix, rollouts: Rollouts, grammar: AnswerGrammar | None = None) -> Tensor:
        """float[B, K, T] in the sampled density (``grammar``: that of ``generate``), differentiable: one forward.

        Raises:
            ValueError: if the grammar cannot have drawn a completion, or not within ``max_new_tokens``.
        """
        return self._logprobs(prefix, rollouts, self.sampling, grammar)

    def _logprobs(
        self, prefix: Prefix, rollouts: Rollouts, sampling: Sampling, grammar: AnswerGrammar | None
    ) -> Tensor:
        walk = grammar and self._tokens_of(grammar).replay(
            rollouts.tokens, rollouts.completion_mask, sampling.max_new_tokens
        )
        _, num_completions, num_tokens = rollouts.tokens.shape
        row = pack(prefix.prefix_mask, num_completions, num_tokens)
        fed = rollouts.tokens[:, :, :-1].flatten(1)
        embeds = torch.cat([prefix.embeds, self.vlm.get_input_embeddings()(fed)], 1)
        hidden = self.vlm.model.text_model(
            inputs_embeds=embeds,
            attention_mask=row.attention_mask,
            position_ids=row.position_ids,
            use_cache=False,
        ).last_hidden_state
        wanted = unpack(hidden, prefix, num_completions, num_tokens)[rollouts.completion_mask]
        tokens = rollouts.tokens[rollouts.completion_mask]
        parts = [
            checkpoint(self._head, h, t, sampling, walk and walk.part(i * _HEAD_ROWS, len(t)), use_reentrant=False)
            for i, (h, t) in enumerate(zip(wanted.split(_HEAD_ROWS), tokens.split(_HEAD_ROWS), strict=True))
        ]
        logps = torch.cat(parts)
        return torch.zeros(rollouts.tokens.shape, dtype=logps.dtype, device=logps.device).masked_scatter(
            rollouts.completion_mask, logps
        )

    def _head(self, hidden: Tensor, tokens: Tensor, sampling: Sampling, walk: Walk | None) -> Tensor:
        # Made here, so that masks over the vocabulary live no longer than the logits.
        banned = walk.banned(hidden.device) if walk else self.banned
        return gather_logps(log_density(self.vlm.lm_head(hidden), sampling, banned, tokens), tokens)

    @torch.no_grad()
    def reference_logprobs(
        self, batch: Batch, prefix: Prefix, rollouts: Rollouts, grammar: AnswerGrammar | None = None
    ) -> Tensor:
        """float[B, K, T] under the frozen start: temperature, bans and grammar, no truncation.

        Truncation is left out because the start may give a drawn token no place in its own kept set, and
        KL(q || p_ref) would be infinite there.
        """
        with self.as_reference() as start:
            seen = prefix if start is self else start.encode(batch)
            return start._logprobs(seen, rollouts, self.sampling.without_truncation(), grammar)

    @contextmanager
    def as_reference(self) -> Iterator["HFPolicy"]:
        """The frozen start, for the time of a block: adapters switched off, or the copy that was kept.

        Raises:
            RuntimeError: if there are no adapters and no copy.
        """
        if isinstance(self.model, PeftModel):
            with self.model.disable_adapter():
                yield self
        elif self._reference:
            yield self._reference[0].to(self.vlm.device)
        else:
            raise RuntimeError("no reference was kept: call keep_reference() before the first update")

    def keep_reference(self) -> None:
        """Remember the present weights as the reference; free where adapters are on (they are switched off)."""
        if not isinstance(self.model, PeftModel):
            self._reference = []
            self._reference = [copy.deepcopy(self).requires_grad_(False).eval()]

    def targets(self, texts: list[list[str]]) -> Rollouts:
        """Write given completions, K per scene, as rollouts whose ``logprobs`` are the supervised log-likelihood.

        Raises:
            ValueError: if scenes have different numbers of texts.
        """
        return write_targets(self.processor.tokenizer, texts, self.end_id, self.pad_id, self.banned.device)

    def save_pretrained(self, folder: Path, dtype: str = "float32") -> None:
        """Write model (adapters merged in float32) and processor; plain transformers loads the folder."""
        merged(self.model, dtype).save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def save_on_start(self, folder: Path, name: str) -> None:
        """Write the frozen start into ``folder`` and what was trained into ``folder/name``.

        Plain transformers loads the start; the other is a peft adapter on it, or without adapters a whole model.
        """
        with self.as_reference() as start:
            save_start(start.model, folder)
            self.processor.save_pretrained(folder)
        if isinstance(self.model, PeftModel):
            save_adapter(self.model, folder / name)
        else:
            self.save_pretrained(folder / name)
