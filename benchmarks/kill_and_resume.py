"""Kills a fit at random moments, goes on each time, and compares the end with a fit left in peace.

    python benchmarks/kill_and_resume.py --stage rloo --kills 30
    python benchmarks/kill_and_resume.py --stage small --kills 20 --signal TERM
    python benchmarks/kill_and_resume.py --stage clip_reward --kills 1
    python benchmarks/kill_and_resume.py --stage action_sft --kills 1
    python benchmarks/kill_and_resume.py --stage footage --kills 4

Exit code 0 means: weights, states of optimizer and schedule, what callbacks remember, metrics, sample tables, every
scalar in TensorBoard, the ledger and the exported model are the same bit for bit, but for times and memory; and that a
fit that was asked to end, by SIGTERM, exited with 143 each time.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import lvad.commands.lightning_cli  # noqa: F401 - the libraries that a fit needs, before it is forked
from lvad.cli import main as main_of_lvad
from lvad.report.tensorboard_events import tag

QUIET = ["--trainer.enable_progress_bar", "false"]
SMALL_POLICY = ["--model.init_args.policy.init_args.sampling.max_new_tokens", "16"]
RLOO = [
    "--config", "configs/rloo.yaml", *SMALL_POLICY, "--model.init_args.estimator", "A2C",
    "--model.init_args.kl.target", "0.5", "--model.init_args.audit", "off",
    "--trainer.val_check_interval", "3", "--trainer.limit_val_batches", "1",
]  # fmt: skip
STAGES = {
    "small": [
        *RLOO, "--trainer.max_epochs", "2", "--data.split.num_scenes", "{train: 12, val: 4, test: 4}",
        "--data.batch_size", "2", "--model.init_args.num_completions", "2", "--model.init_args.judge", "null",
        "--checkpoint.monitor", "val/reward", "--trainer.num_sanity_val_steps", "0", "--plan.preflight", "false",
    ],
    "rloo": [*RLOO, "--trainer.max_epochs", "3", "--data.split.num_scenes", "{train: 80, val: 16, test: 16}"],
    "footage": [
        *RLOO, "--data.source.footage", "../shards", "--data.source.format", "lastframe",
        "--data.source.root", "../drawn",
        "--data.num_workers", "2", "--data.batch_size", "16",
    ],
    "clip_reward": ["--config", "configs/clip_reward.yaml", "--trainer.max_epochs", "3"],
    "action_sft": [
        "--config", "configs/action_sft.yaml", "--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "1",
        "--trainer.limit_val_batches", "1",
    ],
}  # fmt: skip
UNSTEADY = ("time/", "memory/")
# What ModelCheckpoint knows of its folder, and the last improvement, which Lightning does not take back on resuming.
PATHS = ("dirpath", "best_model_path", "kth_best_model_path", "best_k_models", "last_model_path", "current_score")


def start(stage: str, folder: Path) -> multiprocessing.process.BaseProcess:
    """A fit in a process of its own, with the libraries of this one: what is killed is work and not their import."""
    fit = multiprocessing.get_context("fork").Process(target=_fit, args=(stage, folder))
    fit.start()
    return fit


def _fit(stage: str, folder: Path) -> None:
    os.chdir(folder)
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    sys.exit(main_of_lvad(["fit", *STAGES[stage], *QUIET, "--ckpt_path", "last"]))


def make_footage(folder: Path) -> None:
    """159 scenes in 8 shards, beside the folders of the fits."""
    counts = ["--num_train", "64", "--num_val", "8", "--num_test", "8"]
    for args in (["draw", "drawn", *counts], ["shard", "drawn/data", "shards", "--scenes_per_shard", "20"]):
        subprocess.run([sys.executable, "-m", "lvad.cli", "data", *args], cwd=folder, check=True)


def run_in_peace(stage: str, folder: Path) -> float:
    start_s = time.perf_counter()
    fit = start(stage, folder)
    fit.join()
    if fit.exitcode:
        raise RuntimeError(f"a fit in peace ended with exit code {fit.exitcode}")
    return time.perf_counter() - start_s


def run_with_kills(
    stage: str, folder: Path, most: int, longest_s: float, generator: random.Random, number: signal.Signals
) -> list[int]:
    """One fit, killed until it ends or ``most`` is reached; returns its exit codes, as a shell has them."""
    codes: list[int] = []
    while len(codes) < most:
        fit = start(stage, folder)
        fit.join(generator.uniform(0.1, longest_s))
        if is_killed := fit.exitcode is None:
            assert fit.pid is not None
            os.kill(fit.pid, number)
            fit.join()
        code = fit.exitcode or 0
        if is_killed and code:
            codes.append(code if code >= 0 else 128 - code)
            continue
        if code:
            raise RuntimeError(f"a fit that went on ended with exit code {code}")
        return codes  # it came to its end between two kills
    run_in_peace(stage, folder)
    return codes


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two nested results differ, bit for bit."""
    if isinstance(left, dict) and isinstance(right, dict):
        found = [f"{path}.{key}: only on one side" for key in left.keys() ^ right.keys()]
        return found + [
            d for key in left.keys() & right.keys() for d in differences(left[key], right[key], f"{path}.{key}")
        ]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return [f"{path}: {len(left)} and {len(right)} entries"]
        return [d for i, pair in enumerate(zip(left, right, strict=True)) for d in differences(*pair, f"{path}[{i}]")]
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return [] if torch.equal(left, right) or (left.isnan().all() and right.isnan().all()) else [f"{path}: tensors"]
    return [] if left == right or (left != left and right != right) else [f"{path}: {left!r} and {right!r}"]


def result(folder: Path) -> dict[str, Any]:
    # A fit that is killed before its first checkpoint leaves a folder without an end, and the next one starts anew.
    (run,) = (file.parent for file in folder.glob("logs/*/version_*/metrics.json"))
    found: dict[str, Any] = {"scalars": scalars(run)}
    for path in sorted((run / "checkpoints").iterdir()):
        content = torch.load(path, map_location="cpu", weights_only=True)
        kept = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "epoch", "reference")
        found[path.name] = {name: content.get(name) for name in kept}
        for state in found[path.name]["callbacks"].values():
            for name in PATHS:
                state.pop(name, None)
    metrics = json.loads((run / "metrics.json").read_text())
    found["metrics"] = {name: value for name, value in metrics.items() if not name.startswith(UNSTEADY)}
    found["ledger"] = json.loads((run / "ledger.json").read_text())
    samples = run / "samples.jsonl"
    found["samples"] = samples.read_text().splitlines() if samples.exists() else []
    found["model"] = {path.name: path.read_bytes() for path in (run / "model").rglob("*.safetensors")}
    return found


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}, purge_orphaned_data=True)
    events.Reload()
    unsteady = (*UNSTEADY, *(tag(name) for name in UNSTEADY))
    names = [name for name in events.Tags()["scalars"] if not name.startswith(unsteady)]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, default="rloo")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--longest-s", type=float, help="a kill comes after at most that long; half of a fit in peace")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    args = parser.parse_args()
    number = signal.Signals[f"SIG{args.signal}"]
    generator, codes, found, rows, fits = random.Random(args.seed), [], [], 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        peace = Path(scratch) / "peace"
        peace.mkdir()
        if args.stage == "footage":
            make_footage(peace.parent)
        seconds = run_in_peace(args.stage, peace)
        print(f"{args.stage}: a fit in peace takes {seconds:.0f} s", flush=True)
        while len(codes) < args.kills:
            war, fits = Path(scratch) / f"war-{fits}", fits + 1
            war.mkdir()
            most, longest_s = args.kills - len(codes), args.longest_s or seconds / 2
            codes += run_with_kills(args.stage, war, most, longest_s, generator, number)
            found += differences(result(peace), result(war))
            rows += len(result(war)["samples"])
            print(f"{len(codes)} kills in {fits} fits; {rows} sample rows; {len(found)} differences", flush=True)
    print(f"exit codes: {dict(Counter(codes))}")
    found += [f"exit code {code}" for code in codes if code != 128 + number]
    print("\n".join(found[:20]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
