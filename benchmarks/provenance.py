"""Where a measured figure comes from: each row of a record names the commit, the command and the device of its run."""

import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commit(root: Path = ROOT) -> str:
    """The commit of a checkout, with a plus where tracked files other than the records differ; unknown elsewhere."""
    git = ["git", "-C", str(root)]
    status = [*git, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)benchmarks/*.json"]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())


def command() -> str:
    """The command line of this process, without the folders of the interpreter and the script."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def device() -> str:
    """The name of the GPU, or the number of threads on a CPU."""
    import torch  # here, because the first process of gpu.py must not import it

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def provenance() -> dict[str, str]:
    """The columns of a row that say where it comes from; call it before the first run, as files may change later."""
    return {"commit": commit(), "command": command(), "device": device(), "torch": version("torch")}
