"""Every stage for a step by the command line, and every other command on what it leaves, in each precision."""

from functools import partial
from pathlib import Path

from gpu_bench.bench import Bench
from gpu_bench.commands import QUIET, accelerator, job, run_folder
from gpu_bench.rows import Row, Rows

SHORT = [
    "--trainer.max_epochs", "1", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "1",
    "--trainer.check_val_every_n_epoch", "1", "--trainer.val_check_interval", "1.0",
    "--trainer.num_sanity_val_steps", "0", "--data.source.format", "lastframe",
]  # fmt: skip
FEW = ["--data.split.num_scenes", "{train: 8, val: 8, test: 8}", "--data.batch_size", "8"]  # one step is an epoch
SINGLE = [
    "--data.split.num_scenes",
    "{train: 3, val: 1, test: 1}",
    "--data.batch_size",
    "3",
]  # of the scenes with one label
POLICY, CLIP = "--model.init_args.policy.init_args", "--model.init_args.clip.init_args"
STAGES = {
    "rloo": [*FEW, "--model.init_args.audit", "warn", f"{POLICY}.sampling.max_new_tokens", "16"],
    "clip_reward": FEW,
    "action_sft": FEW,
    "two_stage": FEW,
    "toy_sft": SINGLE,
    "toy_a2c": [*SINGLE, f"{POLICY}.model", "embedded/vlm"],
    "pretrain_vlm": [*FEW, f"{POLICY}.model", "embedded/vlm"],
    "pretrain_clip": [*FEW, f"{CLIP}.model", "embedded/clip"],
}
TINY = ("rloo", "clip_reward")
EVALUATED = ("rloo", "clip_reward", "action_sft", "two_stage")
PREDICTED = ("rloo", "action_sft", "two_stage")
EXPORTED = ("rloo", "clip_reward", "two_stage")


def stages(bench: Bench, precision: str) -> Rows:
    """A row per command; what stands behind a fit that failed is left out."""
    drawn = bench.drawn_scenes()
    for stage in TINY if bench.is_tiny else STAGES:
        where = ["--data.source.root", str(drawn), "--trainer.precision", precision, *QUIET, *accelerator()]
        fit = job(f"{stage} fit", ["fit", "--config", f"configs/{stage}.yaml", *SHORT, *STAGES[stage], *where])
        yield fit
        if fit.passed and stage in EVALUATED:
            yield from _after(stage, run_folder(stage), drawn)


def _after(stage: str, run: Path, drawn: Path) -> Rows:
    picture = str(next(drawn.rglob("*.jpg")))
    newest = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), *QUIET]
    yield job(f"{stage} validate", ["validate", *newest])
    yield job(f"{stage} test", ["test", *newest])
    if stage in PREDICTED:
        yield job(f"{stage} predict", ["predict", picture, *newest])
    if stage in EXPORTED:
        yield job(f"{stage} export", ["export", str(run), f"exported/{stage}", "--num_scenes", "1"])
    if stage == "clip_reward":
        where = ["--root", str(drawn), "--format", "lastframe", "--num_scenes", "8", "--out", "audit"]
        yield job(f"{stage} audit", ["audit", "--reward", str(run / "model"), *where], Path("audit", "audit.json"))


bf16_mixed = partial(stages, precision="bf16-mixed")
in_32_true = partial(stages, precision="32-true")


def in_16_mixed(bench: Bench) -> Rows:
    """For cards without bfloat16."""
    if bench.is_tiny:
        yield Row("16-mixed", note="left out: Lightning has it on a GPU alone")
        return
    yield from stages(bench, "16-mixed")


bf16_true = partial(stages, precision="bf16-true")
