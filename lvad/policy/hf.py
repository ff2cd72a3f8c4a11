"""A transformers vision-language model as a policy; frames and prompt are read once for K completions."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvad.assets import resolve_model
from lvad.policy.adapters import HasReference, Lora, adapted, is_peft_model, merged, save_adapter, save_start
from lvad.policy.autograd_functions import TokenLogps, shared_lookup
from lvad.policy.decoder import Decoder, VLMTokenDecoder
from lvad.policy.families import family_of
from lvad.policy.grammar import AnswerGrammar, GrammarStates, TokenGrammar
from lvad.policy.packing import token_cells, token_counts, upload
from lvad.policy.passes import PromptCache, predicting_states, prompt_pass
from lvad.policy.pixels import ImageOptions
from lvad.policy.pretrained import load_vlm
from lvad.policy.prompt_inputs import ScenePrompt, prompt_inputs
from lvad.policy.sampling import Sampling, StopCriteria, next_token_logps, sample_completions
from lvad.policy.static_sampler import SamplerOptions, StaticSamplerCache
from lvad.policy.tokens import PromptIds, banned_tokens, decode_completions, end_tokens, token_texts, write_targets
from lvad.policy.vision import VisionCache, VisionEncoder
from lvad.text import Prompts
from lvad.types import Batch, Prefix, Rollouts


class HFPolicy(HasReference):
    """A vision-language model of transformers, by name or folder.

    Args:
        model: ``embedded/vlm``, a folder, or a hub name of a checkpoint of one of the ``FAMILIES``.
        sampling: temperature, top-k, top-p and length limit of the completions.
        prompts: the questions that the model is asked.
        lora: adapters to train; None trains the weights themselves, and KL then needs a second model.
        freeze_vision: freeze the vision encoder and the connector.
        gradient_checkpointing: trade a second forward for the memory of activations.
        completions_at_once: completions of a scene in one forward of the completion pass: the same gradient in less
            memory, with a second forward of the completions; None takes all.
        vision_cache: where the visual tokens of a frozen vision encoder are kept.
        dtype: of the weights, as transformers names them.
        in_four_bits: keep the text model's frozen layers in 4 bits under the adapters.
        cuda_graphs: on CUDA, decode each token by one captured graph: the same tokens, several times as fast. Its
            keys and values stay in memory between rollouts.
        images: options of how a frame is scaled and cut, which set the length of prompts; an export keeps them.

    Raises:
        ValueError: for a model that ``load_vlm`` refuses, ``images`` that its processor cannot do,
            ``completions_at_once`` below 1, or 4 bits without adapters.
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
        completions_at_once: int | None = None,
        vision_cache: VisionCache = VisionCache(),
        dtype: str = "float32",
        in_four_bits: bool = False,
        cuda_graphs: bool = True,
        images: ImageOptions = ImageOptions(),
    ) -> None:
        super().__init__()
        self.source = source = resolve_model(model)
        if in_four_bits and lora is None:
            raise ValueError("in_four_bits needs lora: weights in 4 bits cannot be trained themselves")
        vlm, self.processor = load_vlm(source, dtype, in_four_bits)
        if completions_at_once is not None and completions_at_once < 1:
            raise ValueError(f"completions_at_once must be >= 1, got {completions_at_once}")
        self.processor.tokenizer.padding_side = "right"
        self._family = family_of(vlm)
        self._family.limit(images, self.processor, vlm.config)
        frame_encoder = self._family.frame_encoder(self.processor)
        self.sampling, self.prompts, self.completions_at_once = sampling, prompts, completions_at_once
        self.prompt_ids = PromptIds(self.processor, frame_encoder)
        self._vision_encoder = VisionEncoder(self._family, frame_encoder, vision_cache)
        self.model = _trainable(vlm, self._vision_encoder if freeze_vision else None, lora, gradient_checkpointing)
        banned = banned_tokens(self.processor.tokenizer, vlm.config, self.end_ids)
        self.register_buffer("banned", banned, persistent=False)
        self.cuda_graphs, self._samplers = cuda_graphs, StaticSamplerCache()
        self._grammars: dict[AnswerGrammar, TokenGrammar] = {}
        self.train()  # transformers loads in evaluation mode, which ignores gradient checkpointing

    @property
    def vlm(self) -> Any:
        """The transformers model, with adapters inside its layers if there are any."""
        return self.model.get_base_model() if is_peft_model(self.model) else self.model

    @property
    def text_model(self) -> Any:
        """The text model: layers and final norm, without embedding and head."""
        return self.vlm.get_decoder()

    @property
    def end_id(self) -> int:
        """The token that a written text ends with (``targets``, answers under a grammar)."""
        return self.processor.tokenizer.eos_token_id

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a sampled completion, ``end_id`` first; transformers stops at the same ones."""
        return end_tokens(self.processor.tokenizer, self.vlm.generation_config)

    @property
    def pad_id(self) -> int:
        """The token that fills positions after the end."""
        pad = self.processor.tokenizer.pad_token_id
        return self.end_id if pad is None else pad

    @property
    def state_size(self) -> int:
        """D of ``states``."""
        return self.vlm.config.text_config.hidden_size

    def states(self, prefix: Prefix) -> Tensor:
        """The last hidden state of each prompt, float[B, E], without gradient; it has attended to the whole prompt."""
        return _prompt_cache(prefix).last.detach()

    def encode(self, batch: Batch, questions: list[str] | None = None) -> Prefix:
        """Run frames and question of each scene once, for ``generate`` and, where gradients are on, for ``logprobs``.

        Args:
            batch: B scenes.
            questions: one for each scene; None asks all of them ``Prompts.describe``.

        Raises:
            ValueError: if visual tokens and their places in the prompt do not match in number.
        """
        questions = questions or [self.prompts.describe] * len(batch.ids)
        written = [self.prompt_ids(*scene) for scene in zip(questions, batch.frames, strict=True)]
        visual_tokens = self._vision_encoder.encode_images(self.vlm, batch.frames)
        scenes = zip(batch.ids, written, map(len, batch.frames), visual_tokens, strict=True)
        prompts = [ScenePrompt(scene, *tokens, num_frames, visual) for scene, tokens, num_frames, visual in scenes]
        lookup = shared_lookup(self.vlm.get_input_embeddings())
        inputs = prompt_inputs(self.vlm, self._family, lookup, prompts)
        return Prefix(inputs.embeds, inputs.lengths, lookup, prompt_pass(self.text_model, inputs))

    @torch.no_grad()
    def generate(
        self,
        prefix: Prefix,
        num_completions: int,
        greedy: bool = False,
        grammar: AnswerGrammar | None = None,
        begin: Rollouts | None = None,
    ) -> Rollouts:
        """Sample K completions of each prompt.

        Args:
            prefix: B encoded prompts.
            num_completions: K.
            greedy: take the most probable token at each step.
            grammar: sample only its answers, each complete within ``max_new_tokens``. The mask is part of the
                distribution, so the log-probability methods must be given the same grammar.
            begin: tokens that the B times K completions start with, such as those of ``targets`` without their end.

        Raises:
            ValueError: if ``max_new_tokens`` is too few for the grammar's shortest answer.
        """
        prompt_cache = _prompt_cache(prefix)
        stop = StopCriteria(self.end_ids, self.pad_id, self.sampling.max_new_tokens)
        num_rows = len(prompt_cache.lengths) * num_completions
        grammar_states = grammar and self._token_grammar(grammar).start(num_rows, stop.max_new_tokens)
        if uses_static_shapes(prompt_cache.last.device):
            options = SamplerOptions(self.sampling, stop, greedy, grammar_states is not None)
            use_graph = self.cuda_graphs and prompt_cache.last.is_cuda
            sampler = self._samplers.get(self.vlm, self.banned, options, prompt_cache, num_completions, use_graph)
            drawn = sampler(prompt_cache, grammar_states, begin)
        else:
            text_decoder = Decoder(self.text_model, prompt_cache, num_completions, stop.max_new_tokens)
            decoder = VLMTokenDecoder(self.vlm, text_decoder, self.sampling, self.banned)
            hidden = prompt_cache.last.detach().repeat_interleave(num_completions, 0)
            drawn = sample_completions(hidden, decoder, stop, greedy, grammar_states, begin)
        tokens, mask, logps, entropies, is_truncated = (part.unflatten(0, (-1, num_completions)) for part in drawn)
        texts = decode_completions(self.processor.tokenizer, tokens, mask)
        return Rollouts(tokens, mask, logps, entropies, is_truncated, texts)

    def _token_grammar(self, grammar: AnswerGrammar) -> TokenGrammar:
        if grammar not in self._grammars:
            is_no_text = self.banned.clone()
            is_no_text[list(self.end_ids)] = True  # an end need not be a special token
            texts = token_texts(self.processor.tokenizer, is_no_text)
            self._grammars[grammar] = TokenGrammar(grammar, texts, self.end_id)
        return self._grammars[grammar]

    def logprobs(self, prefix: Prefix, rollouts: Rollouts, grammar: AnswerGrammar | None = None) -> Tensor:
        """Compute log-probabilities float[B, K, T] in the sampled distribution, differentiably, in one forward.

        Args:
            prefix: B encoded prompts.
            rollouts: K completions of each.
            grammar: the one that ``generate`` was given.

        Raises:
            ValueError: if the grammar cannot have drawn a completion, or not within ``max_new_tokens``.
        """
        return self._logprobs(prefix, rollouts, self.sampling, grammar)

    def _logprobs(
        self, prefix: Prefix, rollouts: Rollouts, sampling: Sampling, grammar: AnswerGrammar | None
    ) -> Tensor:
        grammar_states = grammar and self._token_grammar(grammar).replay(
            rollouts.tokens, rollouts.completion_mask, sampling.max_new_tokens
        )
        counts = token_counts(rollouts.completion_mask)
        cells = upload(token_cells(counts, rollouts.tokens.shape[-1]), rollouts.tokens.device)
        tokens = rollouts.tokens.flatten().index_select(0, cells)
        states = predicting_states(
            self.text_model, prefix.lookup, _prompt_cache(prefix), rollouts.tokens, counts, self.completions_at_once
        )

        def next_logps(logits: Tensor, rows: slice) -> Tensor:
            # A grammar's masks over the vocabulary are as large as the logits: made for these rows only.
            banned = self._banned_by(grammar_states and grammar_states.pick(range(*rows.indices(len(tokens)))))
            return next_token_logps(logits, sampling, banned, always_keep=tokens[rows])

        logps: Any = TokenLogps.apply(states, self.vlm.lm_head.weight, tokens, sampling.temperature, next_logps)
        return logps.new_zeros(rollouts.tokens.numel()).index_copy(0, cells, logps).view(rollouts.tokens.shape)

    def _banned_by(self, grammar_states: GrammarStates | None) -> Tensor:
        return grammar_states.banned(self.banned.device) if grammar_states else self.banned

    @torch.no_grad()
    def reference_logprobs(
        self, batch: Batch, prefix: Prefix, rollouts: Rollouts, grammar: AnswerGrammar | None = None
    ) -> Tensor:
        """Compute log-probabilities float[B, K, T] under the reference: temperature, bans and grammar, no truncation.

        With truncation a token could lie outside the reference's kept set, and KL(q || p_ref) would be infinite.
        """
        with self.as_reference() as start:
            # With an adapted vision encoder the visual tokens differ too, so the frames are encoded again.
            shares_inputs = start is self and not self._vision_encoder.is_adapted(self.vlm)
            own = self._repeat_prompt_pass(prefix) if shares_inputs else start.encode(batch)
            return start._logprobs(own, rollouts, self.sampling.without_truncation(), grammar)

    def _repeat_prompt_pass(self, prefix: Prefix) -> Prefix:
        return prefix._replace(prompt_cache=prompt_pass(self.text_model, _prompt_cache(prefix).inputs))

    def shared_with_reference(self) -> list[object]:
        """Objects that the reference copy shares with the policy: the visual-token cache."""
        return [self._vision_encoder]

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
        """Write the frozen start into ``folder`` and the trained weights into ``folder/name``.

        Plain transformers loads the start. The trained weights are a peft adapter on it, or without adapters a whole
        model.
        """
        with self.as_reference() as start:
            save_start(start.model, folder)
            self.processor.save_pretrained(folder)
        if is_peft_model(self.model):
            save_adapter(self.model, folder / name)
        else:
            self.save_pretrained(folder / name)


def _trainable(vlm: Any, frozen: VisionEncoder | None, lora: Lora | None, gradient_checkpointing: bool) -> Any:
    """Prepare a loaded model for training, in place: freeze the vision encoder, add checkpointing and adapters."""
    if frozen is not None:
        frozen.freeze(vlm)
    if gradient_checkpointing:
        vlm.get_decoder().gradient_checkpointing_enable()
    return adapted(vlm, lora) if lora else vlm


def uses_static_shapes(device: torch.device) -> bool:
    """Whether the sampler of static shapes is the faster one: a CPU gains more by dropping rows that have ended."""
    return device.type != "cpu"


def _prompt_cache(prefix: Prefix) -> PromptCache:
    if not isinstance(prefix.prompt_cache, PromptCache):
        raise TypeError("this prefix was not encoded by an HFPolicy: call its encode()")
    return prefix.prompt_cache
