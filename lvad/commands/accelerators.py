"""The device of the commands that run without a trainer."""

import torch


def accelerator() -> torch.device:
    """Return the machine's accelerator, of any make, or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
