"""A policy small enough to enumerate."""

import pytest
import torch

from lvad.policy.hf import HFPolicy, Lora
from lvad.policy.sampling import Sampling


@pytest.fixture
def make_policy(vlm_folder):
    """A policy with sharpened adapters, so that its law depends on what it sees."""

    def make(lora=True, spread=True, **sampling):
        torch.manual_seed(0)
        policy = HFPolicy(
            str(vlm_folder), Sampling(**sampling), lora=Lora(rank=4) if lora else None, freeze_vision=lora
        )
        if spread:
            with torch.no_grad():
                for name, parameter in policy.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(0, 0.2)
                    elif "connector" in name or "embed_tokens" in name or "patch_embedding" in name:
                        parameter.mul_(8)
        return policy.eval()

    return make
