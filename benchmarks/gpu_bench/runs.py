"""Whole runs: the main job, four bits, one process of a launcher, and a fit that is killed and goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from kill_and_resume import differences, result

from gpu_bench.bench import Bench
from gpu_bench.commands import QUIET, accelerator, job, metrics, run_folder
from gpu_bench.rows import Row, Rows
from gpu_bench.stages import FEW, POLICY, SHORT

MAIN_JOB_S = 25.0
SMALL = ["--model.init_args.audit", "off", f"{POLICY}.sampling.max_new_tokens", "16", *FEW, *QUIET]
RESUMED = [
    "--trainer.max_epochs", "3", "--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1",
    "--trainer.num_sanity_val_steps", "0", "--data.source.format", "lastframe", "--ckpt_path", "last",
    "--data.split.num_scenes", "{train: 16, val: 8, test: 8}",
]  # fmt: skip
"""Six steps, a checkpoint after each second."""
LAST = "logs/rloo/version_0/checkpoints/last.ckpt"


def main_job(bench: Bench) -> Rows:
    """The README's first command, imports apart: the fit, and with drawing the scenes and making the models."""
    few = ["--data.split.num_scenes", "{train: 16, val: 8, test: 8}"] if bench.is_tiny else []
    done = job("fit", ["fit", "--config", "configs/rloo.yaml", *few, *QUIET])
    if not done.passed:
        yield done
        return
    found = metrics(run_folder("rloo"))
    names = ("val/reward_start", "val/reward", "val/fact_precision", "val/fact_recall", "memory/peak_mib")
    figures: dict[str, float | str] = {"fit_s": found["time/fit_s"], "command_s": done.figures["seconds"]}
    figures |= {name: found[name] for name in names if name in found}
    yield Row.judged("README's first command", figures, {} if bench.is_tiny else {"fit_s": MAIN_JOB_S})


def qlora(bench: Bench) -> Rows:
    """``configs/strategy/qlora.yaml``: a step, a test and an export."""
    fit = job("fit", _fit(bench, "qlora"))
    yield fit
    if fit.passed:
        run = run_folder("rloo")
        best = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), *QUIET]
        yield job("test", ["test", *best])
        yield job("export", ["export", str(run), "exported", "--num_scenes", "1"])


def torchrun(bench: Bench) -> Rows:
    """One process of ``torchrun`` with ``configs/strategy/ddp.yaml``."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", "-m", "lvad.cli"]
    start_s = time.perf_counter()
    code = subprocess.run([*launch, *_fit(bench, "ddp")]).returncode
    note = "" if code == 0 and Path(LAST).is_file() else f"exit code {code}, see the section's log"
    yield Row("fit", {"seconds": time.perf_counter() - start_s}, not note, note)


def _fit(bench: Bench, strategy: str) -> list[str]:
    """A step of the main job with a strategy's file on top, on one device."""
    files = ["--config", "configs/rloo.yaml", "--config", f"configs/strategy/{strategy}.yaml"]
    where = ["--data.source.root", str(bench.drawn_scenes()), "--trainer.devices", "1", *accelerator()]
    precision = ["--trainer.precision", "32-true"] if bench.is_tiny else []
    return ["fit", *files, *SHORT, *SMALL, *where, *precision]


def resume(bench: Bench) -> Rows:
    """A fit killed after its first checkpoint goes on to the end, and is held against an unbroken one."""
    root = ["--data.source.root", str(bench.drawn_scenes())]
    fit = [sys.executable, "-m", "lvad.cli", "fit", "--config", "configs/rloo.yaml", *SMALL, *RESUMED, *root]
    fit += accelerator()
    for name in ("war", "peace"):
        Path(name).mkdir()
    killed = subprocess.Popen(fit, cwd="war")
    _wait_for(Path("war", LAST), killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    steps = torch.load(Path("war", LAST), weights_only=True)["global_step"]
    yield Row.judged("killed", {"step": steps}, {"step": 5})
    fits = [subprocess.Popen(fit, cwd=name) for name in ("war", "peace")]
    codes = [process.wait() for process in fits]
    if any(codes):
        yield Row("went on", passed=False, note=f"exit codes {codes}, see the section's log")
        return
    found, wanted = result(Path("war")), result(Path("peace"))
    figures: dict[str, float | str] = {"differences": len(differences(found, wanted))}
    weights = (run["last.ckpt"]["state_dict"] for run in (found, wanted))
    figures["largest_of_weights"] = largest_difference(*weights)
    # Atomic additions of attention's backward pass may round otherwise from run to run on a GPU.
    at_most = {"differences": 0.0} if bench.is_tiny else {"largest_of_weights": 1e-2}
    yield Row.judged("went on", figures, at_most)


def _wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    while not file.is_file():
        if process.poll() is not None:
            raise RuntimeError(f"the fit ended with exit code {process.returncode} before it wrote {file.name}")
        time.sleep(0.02)


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Between the weights of two checkpoints; infinite where they have other weights."""
    if left.keys() != right.keys():
        return float("inf")
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)
