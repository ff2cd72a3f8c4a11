"""lvad's commands on the test device, many in one process, which pays for its imports once.

    python tests/device/jobs.py FOLDER NAME ...

runs the named jobs in the folder and writes ``jobs.json`` there: what became of each.
"""

import contextlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

MODEL: Final = "--model.init_args"
POLICY: Final = "--model.init_args.policy.init_args"
_ON: Final = ["--trainer.accelerator", "testdevice", "--trainer.strategy", "testdevice"]
_DATA: Final = [
    *(
        "--data.source.format",
        "lastframe",
        "--data.source.root",
        "drawn",
        "--data.split.num_scenes",
        "{train: 2, val: 2, test: 2}",
    ),
    *("--data.batch_size", "2"),
]
_STEP: Final = [
    *("--trainer.max_epochs", "1", "--trainer.max_steps", "1", "--trainer.check_val_every_n_epoch", "1"),
    *("--trainer.val_check_interval", "1.0", "--trainer.enable_progress_bar", "false"),
]
# The toy stages take the scenes with a single action and a single reason alone.
_TOY: Final = ["--data.split.num_scenes", "{train: 2, val: 1, test: 1}"]
_FEW: Final = ["--trainer.limit_predict_batches", "1", "--data.eval_batch_size", "2"]
_FEW_TOKENS: Final = [f"{POLICY}.sampling.max_new_tokens", "4"]
_LEAN: Final = [
    *("--trainer.logger", "false", "--trainer.limit_val_batches", "0", "--checkpoint.monitor", "null"),
    *("--recorder.export", "false"),
]
_ALL_WEIGHTS: Final = """
model:
  class_path: lvad.modules.RLOOPolicy
  init_args:
    policy:
      class_path: lvad.policy.HFPolicy
      init_args: {lora: null, freeze_vision: false}
"""


PIXELS: Final = "pixels"
"""In place of a job: what ``pixels.compare`` finds of each image processor."""


class Job(NamedTuple):
    """One command."""

    args: list[str]
    code: int = 0
    """What it ends with."""
    says: str = ""
    """Among other things."""
    needs_float64: bool = False
    """Of a library; the device refuses it otherwise."""
    with_older_processor: bool = False
    """The image processor that transformers takes beside torchvision below 0.27."""


def _fit(config: str, *args: str) -> list[str]:
    return ["fit", "--config", f"configs/{config}.yaml", *_DATA, *_STEP, *_ON, *args]


def _rloo(*args: str) -> list[str]:
    few = ["--trainer.num_sanity_val_steps", "0", *_FEW_TOKENS, f"{MODEL}.num_completions", "2"]
    own = [f"{MODEL}.audit", "off", f"{MODEL}.judge", "null", "--checkpoint.monitor", "val/reward"]
    return _fit("rloo", *few, *own, *args)


def _mixed(precision: str) -> list[str]:
    """Lightning's own flag means CUDA's autocast for every accelerator but the CPU and MPS."""
    plugin = "lightning.pytorch.plugins.MixedPrecision"
    return ["--trainer.plugins", f"{{class_path: {plugin}, init_args: {{precision: {precision}, device: testdevice}}}}"]


def _again(command: str, run: str, *args: str) -> list[str]:
    folder = f"logs/{run}/version_0"
    return [command, "--config", f"{folder}/config.yaml", "--ckpt_path", f"{folder}/checkpoints/best.ckpt", *args]


RLOO: Final = {
    "rloo": Job(_rloo()),
    "rloo test": Job(_again("test", "rloo")),
    "rloo validate": Job(_again("validate", "rloo")),
    "rloo predict": Job(
        _again("predict", "rloo", "--data.source.format", "frames", "--data.source.root", "drawn/data", *_FEW)
    ),
    "rloo export": Job(["export", "logs/rloo/version_0", "exported-rloo", "--num_scenes", "1"]),
    "rloo, older processor, kl target and refresh": Job(
        _rloo(*_LEAN, f"{MODEL}.kl", "{beta: 0.05, target: 0.5, refresh_every: 1}"), with_older_processor=True
    ),
    "rloo, bf16-mixed, top-k and top-p": Job(
        _rloo(
            *(*_LEAN, *_mixed("bf16-mixed"), f"{POLICY}.dtype", "bfloat16", f"{POLICY}.sampling.top_k", "20"),
            *(f"{POLICY}.sampling.top_p", "0.9"),
        )
    ),
    "rloo, 16-mixed": Job(_rloo(*_LEAN, *_mixed("16-mixed")), needs_float64=True),  # of PyTorch's scaler of gradients
    "rloo, bf16-true": Job(_rloo(*_LEAN, "--trainer.precision", "bf16-true")),
    "rloo, all weights, checkpointing, one completion at once": Job(
        _rloo(
            *(*_LEAN, "--config", "all_weights.yaml", f"{POLICY}.gradient_checkpointing", "true"),
            *(f"{POLICY}.completions_at_once", "1"),
        )
    ),
    "rloo, two updates, entropy bonus, rewards dropped": Job(
        _rloo(*_LEAN, f"{MODEL}.regularisation", "{updates: 2, entropy_bonus: 0.01, non_finite: drop}")
    ),
}
STAGES: Final = {
    "action_sft": Job(_fit("action_sft")),
    "two_stage": Job(_fit("two_stage")),
    "two_stage test": Job(_again("test", "two_stage")),
    "two_stage predict": Job(_again("predict", "two_stage", *_FEW)),
    "toy_sft": Job(_fit("toy_sft", *_TOY)),
    "toy_a2c": Job(_fit("toy_a2c", *_TOY, *_FEW_TOKENS, f"{POLICY}.model", "embedded/vlm")),
    "pretrain_vlm": Job(_fit("pretrain_vlm", *_FEW_TOKENS, f"{POLICY}.model", "embedded/vlm")),
    "pretrain_clip": Job(_fit("pretrain_clip", f"{MODEL}.clip.init_args.model", "embedded/clip")),
    "clip_reward": Job(_fit("clip_reward")),
    "clip_reward test": Job(_again("test", "clip_reward")),
    "clip_reward export": Job(["export", "logs/clip_reward/version_0", "exported-clip", "--num_scenes", "1"]),
    "clip_reward, bf16-true": Job(_fit("clip_reward", "--trainer.precision", "bf16-true")),
    # Eight scenes prove little.
    "audit": Job(
        ["audit", "--reward", "embedded/clip-reward", "--root", "drawn", "--num_scenes", "8"], 1, "verdict: fail"
    ),
}


@contextlib.contextmanager
def older_processor(is_wanted: bool) -> Iterator[None]:
    """Let transformers take the image processor of PIL, as it does for these models beside an older torchvision."""
    from transformers.models.auto import image_processing_auto as auto

    before = auto.DEFAULT_TO_PIL_BACKEND_IMAGE_PROCESSORS
    if is_wanted:
        auto.DEFAULT_TO_PIL_BACKEND_IMAGE_PROCESSORS = auto._LANCZOS_IMAGE_PROCESSORS
    try:
        yield
    finally:
        auto.DEFAULT_TO_PIL_BACKEND_IMAGE_PROCESSORS = before


def _run(job: Job) -> dict[str, Any]:
    import backend

    from lvad.cli import main

    start_s, said, at = time.perf_counter(), io.StringIO(), ""
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        backend.float64(job.needs_float64),
        older_processor(job.with_older_processor),
    ):
        try:
            code: object = main(job.args)
        except BaseException as error:  # one job's fault must not hide the next one's
            code, at = repr(error)[:2000], traceback.format_exc()
    return {"code": code, "seconds": time.perf_counter() - start_s, "said": said.getvalue()[-4000:], "at": at}


def _all(names: list[str]) -> None:
    import accelerator  # noqa: F401
    from pixels import compare

    from lvad.data.synthetic import write_synthetic

    write_synthetic(Path("drawn"), num_train=16, num_val=8, num_test=8, progress=False)
    Path("all_weights.yaml").write_text(_ALL_WEIGHTS)
    done: dict[str, Any] = {}
    for name in names:
        if name == PIXELS:
            done[name] = [compare(older_processor, older) for older in (False, True)]
            continue
        done[name] = _run((RLOO | STAGES)[name])
        print(f"{done[name]['seconds']:6.1f} s  {name}: {done[name]['code']}", file=sys.__stdout__, flush=True)
    Path("jobs.json").write_text(json.dumps(done))


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    _all(sys.argv[2:] or [*RLOO, *STAGES])
