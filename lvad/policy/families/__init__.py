"""The supported families of vision-language models, by the model type in their configuration."""

from typing import Any, Final

from lvad.policy.families.family import Family
from lvad.policy.families.idefics3 import IDEFICS3
from lvad.policy.families.internvl import INTERNVL
from lvad.policy.families.llava_onevision import LLAVA_ONEVISION
from lvad.policy.families.qwen_vl import QWEN_VL

FAMILIES: Final[dict[str, Family]] = {
    "idefics3": IDEFICS3,
    "smolvlm": IDEFICS3,
    "llava_onevision": LLAVA_ONEVISION,
    "internvl": INTERNVL,
    "qwen2_vl": QWEN_VL,
    "qwen2_5_vl": QWEN_VL,
    "qwen3_vl": QWEN_VL,
}


def family_of(vlm: Any) -> Family:
    """The family of a loaded transformers model."""
    return FAMILIES[vlm.config.model_type]
