"""``lvad embedded``: make the folders of the embedded models."""

import shutil
from pathlib import Path

from jsonargparse import auto_cli

from lvad.commands.embedded_models import make_clip, make_vlm
from lvad.commands.error_messages import report_user_errors
from lvad.data.ledger import LEDGER
from lvad.policy import HFPolicy
from lvad.rewards.clip import CLIP


def vlm(folder: Path, vocab_size: int = 640, num_scenes: int = 4000, seed: int = 0) -> None:
    """Write a small SmolVLM with random weights.

    Args:
        folder: where to.
        vocab_size: entries of the byte-level BPE.
        num_scenes: synthetic scenes whose captions the BPE is trained on.
        seed: of the weights.
    """
    make_vlm(folder, vocab_size, num_scenes, seed)


def clip(folder: Path, vision_from: Path, seed: int = 0) -> None:
    """Write a small open_clip CLIP around a trained captioner's vision encoder.

    Args:
        folder: where to.
        vision_from: folder of the captioner, of another seed than the policy's.
        seed: of the random weights.
    """
    make_clip(folder, vision_from, seed)


def save_float16(source: Path, folder: Path) -> None:
    """Copy a trained model in half precision with its ledger, as the embedded models are shipped.

    Args:
        source: the folder ``model/`` of a run.
        folder: where to.
    """
    if (source / "open_clip_config.json").is_file():
        CLIP(str(source)).save_pretrained(folder, "float16")
    else:
        HFPolicy(str(source), lora=None).save_pretrained(folder, "float16")
    if (source / LEDGER).is_file():
        shutil.copy(source / LEDGER, folder / LEDGER)


@report_user_errors
def run(args: list[str]) -> int:
    """Run ``lvad embedded ARGS`` and return the exit code."""
    auto_cli({"vlm": vlm, "clip": clip, "ship": save_float16}, args=args, prog="lvad embedded", exit_on_error=False)
    return 0
