"""Scripts that run on the test device, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def on_device(tmp_path_factory):
    """Run a script of this folder in an empty folder and return what it wrote there as ``SCRIPT.json``."""
    from building import built, why_not

    if reason := why_not():
        pytest.skip(reason)
    built()  # here, where the compiler's time is not that of a script

    def run(script, *args):
        folder = tmp_path_factory.mktemp(script)
        paths = [str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, HERE / f"{script}.py", folder, *args],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True, text=True, timeout=580,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return json.loads((folder / f"{script}.json").read_text())

    return run
