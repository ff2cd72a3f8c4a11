"""Floating-point operations of a gradient pass, from the shapes; and what a card can do at most.

A product of an m x n and an n x p matrix is 2 m n p operations. What a causal mask hides counts for nothing, nor does
what is computed a second time in the backward pass: attention's scores, the head's logits, checkpointed layers.
"""

from dataclasses import dataclass
from typing import Any

PEAK_TFLOPS = {
    "B200": 2250.0, "H200 NVL": 835.0, "H200": 989.4, "H100 NVL": 835.0, "H100 PCIe": 756.0, "H100": 989.4,
    "A100": 312.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0, "A10G": 70.0, "A10": 125.0, "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}  # fmt: skip
"""Dense bfloat16 products, by a part of the card's name; the makers' data sheets."""


def peak_rate(card: str) -> float | None:
    """Operations per second of dense products in bfloat16; None for a card that is not in the table."""
    known = [name for name in PEAK_TFLOPS if name in card]
    return PEAK_TFLOPS[max(known, key=len)] * 1e12 if known else None


@dataclass(frozen=True)
class Work:
    """Of one step."""

    prompt_lengths: tuple[int, ...]
    """Tokens of each scene's prompt."""
    completions: int
    """K of each scene."""
    tokens: int
    """T of each completion."""
    tiles: int
    """Of all scenes."""

    @property
    def fed(self) -> int:
        """Rows through the text model: the prompts, and all tokens of completions but their last."""
        return sum(self.prompt_lengths) + len(self.prompt_lengths) * self.completions * (self.tokens - 1)

    @property
    def pairs(self) -> float:
        """Of tokens that see each other."""
        own = self.completions * (self.tokens - 1) ** 2 / 2
        of_prompts = (p * p / 2 + self.completions * (self.tokens - 1) * p + own for p in self.prompt_lengths)
        return sum(of_prompts)


@dataclass(frozen=True)
class Forward:
    """Operations of one forward."""

    layers: float
    """The text model's products with weights."""
    first_inputs: float
    """Those of them with the input of the first layer's attention."""
    adapters: float
    first_adapter_inputs: float
    attention: float
    head: float
    tower: float
    """Products with weights in the vision tower and the connector, the patches' apart."""
    patches: float
    tower_attention: float


def forward(config: Any, work: Work, rank: int) -> Forward:
    """Of a model by its transformers configuration, with adapters of a rank on all linear layers; 0 for none."""
    text = config.text_config
    width, inner, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    queries, keys = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    shapes = [(width, queries), (width, keys), (width, keys), (queries, width), (width, inner), (width, inner)]
    shapes.append((inner, width))
    scored = len(work.prompt_lengths) * work.completions * work.tokens
    of_weights = sum(a * b for a, b in shapes)
    of_adapters = rank * sum(a + b for a, b in shapes)
    tower, patches, tower_attention = _tower(config, work.tiles)
    return Forward(
        layers=2.0 * work.fed * layers * of_weights,
        first_inputs=2.0 * work.fed * sum(a * b for a, b in shapes[:3]),
        adapters=2.0 * work.fed * layers * of_adapters,
        first_adapter_inputs=2.0 * work.fed * 3 * width * rank,
        attention=4.0 * layers * queries * work.pairs,
        head=2.0 * scored * width * text.vocab_size,
        tower=tower,
        patches=patches,
        tower_attention=tower_attention,
    )


def _tower(config: Any, tiles: int) -> tuple[float, float, float]:
    vision = config.vision_config
    width, num_patches = vision.hidden_size, (vision.image_size // vision.patch_size) ** 2
    of_layer = 4 * width * width + 2 * width * vision.intermediate_size
    connector = num_patches * width * config.text_config.hidden_size  # scale_factor cancels out
    weights = vision.num_hidden_layers * num_patches * of_layer + connector
    patches = num_patches * 3 * vision.patch_size**2 * width
    attention = 4.0 * vision.num_hidden_layers * num_patches**2 * width
    return 2.0 * tiles * weights, 2.0 * tiles * patches, tiles * attention


def gradient_pass(config: Any, work: Work, rank: int, trains_tower: bool) -> float:
    """Of the prompts' forward, the completions' forward and the backward; the tower counts in the backward alone.

    Args:
        config: of the transformers model.
        work: of the step.
        rank: of the adapters, beside which all else is frozen; 0 trains the text model.
        trains_tower: the tower and the connector have a gradient; not beside adapters.
    """
    once = forward(config, work, rank)
    if rank:  # the gradients of inputs alone, but of the first ones none: nothing before them is trained
        unasked = once.first_inputs + once.first_adapter_inputs
        return 2 * (once.layers + once.head) + 3 * (once.adapters + once.attention) - unasked
    tower = 2 * once.tower + once.patches + 2 * once.tower_attention if trains_tower else 0.0
    return 3 * (once.layers + once.attention + once.head) + tower
