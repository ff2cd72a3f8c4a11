"""The test device's C++ part, compiled once per machine, version of torch and version of the source."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from filelock import FileLock  # torch needs it too

SOURCE = Path(__file__).with_name("device.cpp")
MODULE = "lvad_test_device"
_TORCH = Path(torch.__file__).parent
_FLAGS = ("-O0", "-g0", "-std=c++20", "-fPIC", "-shared", "-w", f"-DTORCH_EXTENSION_NAME={MODULE}")


def why_not() -> str | None:
    """Why this machine cannot compile it; None where it can."""
    if sys.platform != "linux":
        return f"the test device is compiled on Linux alone, this is {sys.platform}"
    if _compiler() is None:
        return "the test device needs a C++ compiler (g++ or $CXX)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "the test device needs Python's headers (Python.h)"
    return None


def built() -> Path:
    """The shared library; compiled now, in about half a minute, where that was not done before.

    Raises:
        RuntimeError: with the compiler's messages.
    """
    version = f"{torch.__version__} {sysconfig.get_config_var('SOABI')} {_FLAGS}".encode()
    folder = _cache() / hashlib.blake2b(SOURCE.read_bytes() + version, digest_size=8).hexdigest()
    library = folder / f"{MODULE}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # of the processes that start together, one compiles; it falls with its process
        if not library.is_file():
            _compile(library)
    return library


def _compile(library: Path) -> None:
    includes = [_TORCH / "include", _TORCH / "include/torch/csrc/api/include", sysconfig.get_paths()["include"]]
    written = library.with_suffix(".part")
    command = [
        _compiler(), *_FLAGS, *(f"-isystem{folder}" for folder in includes), SOURCE, "-o", written,
        f"-L{_TORCH / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python",
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{SOURCE.name} does not compile with torch {torch.__version__}:\n{done.stderr[-4000:]}")
    os.replace(written, library)


def _compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def _cache() -> Path:
    """Outside of the checkout: several checkouts share it, and `git clean` leaves it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lvad-test-device"
