"""Where commands without a trainer compute."""

import torch


def accelerator() -> torch.device:
    """The machine's accelerator, of whatever make, or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
