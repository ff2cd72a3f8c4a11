"""``lvad demo``: load one or two runs, and serve the page on this machine."""

import socket
from importlib.util import find_spec
from typing import Final

from jsonargparse import ArgumentParser, Namespace

from lvad.api.loading import load
from lvad.commands.error_messages import report_user_errors
from lvad.commands.library_messages import filter_library_messages
from lvad.commands.security import parse_command_line
from lvad.errors import DataError

EXTRA: Final = ("python_multipart", "starlette", "uvicorn")
_MAX_RUNS: Final = 2
_ANYWHERE: Final = ("0.0.0.0", "::")
_HERE: Final = ("localhost", "127.0.0.1")


def make_parser() -> ArgumentParser:
    """Make the parser of ``lvad demo``'s options."""
    parser = ArgumentParser(prog="lvad demo", description=__doc__, exit_on_error=False)
    add = parser.add_argument
    add(
        "runs", nargs="+", metavar="RUN", help="one or two run folders, checkpoints, or models, as lvad.load takes them"
    )
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    add("--port", type=int, default=7860, help="0 takes a free one")
    add("--max_mb", type=float, default=64.0, help="largest upload, in 2^20 bytes")
    add("--max_frames", type=int, default=64, help="most frames of an upload or of a video")
    add("--device", default=None, help="where to compute: cpu, cuda, ...; a GPU where there is one")
    return parser


@report_user_errors
def run(args: list[str]) -> int:
    """Run ``lvad demo ARGS`` until it is ended, and return the exit code."""
    config = parse_command_line(make_parser(), args)
    check_extra()
    if len(config.runs) > _MAX_RUNS:
        raise DataError(f"lvad demo shows one run or two side by side, got {len(config.runs)}; name fewer")
    for name in ("max_mb", "max_frames"):
        if not getattr(config, name) > 0:
            raise DataError(f"--{name} must be positive, got {getattr(config, name)}")
    filter_library_messages()
    with _listening(config.host, config.port) as listener:
        _serve(config, listener)
    return 0


def check_extra() -> None:
    """Refuse to start without the packages of the page's server.

    Raises:
        DataError: with the command that installs them.
    """
    if missing := [name.replace("_", "-") for name in EXTRA if find_spec(name) is None]:
        raise DataError(f"lvad demo needs {', '.join(missing)}: pip install {' '.join(missing)}")


def _listening(host: str, port: int) -> socket.socket:
    """Open the port, before the models are loaded."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise DataError(f"cannot listen on {host}, port {port} ({error}); give another --port, or 0") from error


def _serve(config: Namespace, listener: socket.socket) -> None:
    import uvicorn

    from lvad.demo.app import Demo, make_app
    from lvad.demo.uploads import Limits

    predictors = [load(name, device=config.device) for name in config.runs]
    hosts = ["*"] if config.host in _ANYWHERE else [config.host, *_HERE]
    app = make_app(Demo(predictors, Limits(config.max_mb, config.max_frames)), hosts)
    name = f"[{config.host}]" if ":" in config.host else config.host
    print(f"lvad demo: http://{name}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([listener])
