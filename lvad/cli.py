"""The ``lvad`` command: the only reader of argv. Heavy libraries are imported by the command that needs them."""

import codecs
import difflib
import io
import locale
import logging
import os
import sys

from lvad import __version__
from lvad.commands.global_options import global_option_args, parse_global_options

STAGE_COMMANDS = ("fit", "validate", "test", "predict")
OTHER_COMMANDS = ("audit", "data", "demo", "embedded", "export", "pipeline", "report", "study")
SLOW_TO_LOAD = (*STAGE_COMMANDS, "audit", "demo", "embedded", "export")
WHAT_TO_TYPE = {
    "fit": "name a configuration: lvad fit --config configs/rloo.yaml",
    "demo": "name a run or a model: lvad demo logs/rloo/version_0",
    "predict": "name a picture, a folder of frames or a video: lvad predict street.jpg",
}
USAGE = f"""lvad {__version__}: label-efficient fine-tuning of vision-language models for interpretable driving

usage: lvad COMMAND [options]

  lvad fit --config configs/rloo.yaml     train; every value of the file can be overridden: --model.kl.beta 0.05
  lvad test                               evaluate the newest run (its config, its best checkpoint)
  lvad test RUN                           evaluate a named one; --ckpt_path FILE names a checkpoint
  lvad validate RUN                       the same on the validation scenes
  lvad predict PATH [--out DIR]           describe a picture, a folder of frames or a video with the newest run
  lvad pipeline                           the whole method and its baseline, compared at the end; continues where it was
  lvad study --config FILE                label budgets x seeds x methods, with tables and a figure
  lvad report RUN RUN                     compare tested runs: intervals, floors, paired differences
  lvad demo RUN [RUN]                     a page on this machine: drop pictures or a video, see what runs say of them
  lvad export RUN DIR                     write a run's model for plain transformers, checked to say the same
  lvad audit --reward PATH                test a reward before a policy is trained on it
  lvad data check ROOT                    count a data set and find what is wrong with it
  lvad data convert ROOT FILE             write a data set as lines of JSON, as your own can be
  lvad data draw ROOT                     write a set of synthetic scenes in BDD-OIA's layout
  lvad data shard SOURCE DIR              make shards of unlabelled footage out of frames and videos
  lvad embedded vlm|clip FOLDER           make the embedded models' folders, with random weights

  lvad COMMAND --help                     all options of a command
  lvad --version
  lvad --debug COMMAND                    show where an error arose, not only the line that says what is wrong
  lvad --safe COMMAND                     import no class of a configuration but those of lvad and its libraries
  lvad --key_host HOST COMMAND            a judge's key may be sent to this host
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; None reads the command line.

    Returns:
        The exit code: 0, 1 for bad data or a missing file, 2 for a command line that cannot be understood, 128 and the
        signal's number where one ended the command.
    """
    if argv is None:
        _use_utf8()
    _print_everything()
    args = parse_global_options(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if args[0] == "--version":
        print(f"lvad {__version__}")
        return 0
    if len(args) == 1 and args[0] in WHAT_TO_TYPE:
        print(f"lvad: error: {WHAT_TO_TYPE[args[0]]} (lvad {args[0]} --help lists all options)", file=sys.stderr)
        return 2
    if args[0] in SLOW_TO_LOAD:
        print(f"lvad {args[0]}: loading ...", file=sys.stderr, flush=True)
    # How waiting threads wait. Spinning without end makes a step many times slower where cores are shared; sleeping
    # at once makes the small products of decoding 2 times slower. A short spin, then sleep, is good at both.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # asks for a package that products in 4 bits could use
    return _run(args[0], args[1:])


def _use_utf8() -> None:
    """Restart in Python's UTF-8 mode where the locale has another encoding.

    Libraries open configurations and logs without naming one, and a name that ASCII lacks would end the run.
    """
    if not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _print_everything() -> None:
    """Print an escape for a character that the terminal cannot show, instead of an error at the end of a long run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(command: str, args: list[str]) -> int:
    if command == "data":
        from lvad.commands.data import run
    elif command == "audit":
        from lvad.commands.audit import run
    elif command == "demo":
        from lvad.demo.command import run
    elif command == "embedded":
        from lvad.commands.embedded import run
    elif command == "export":
        from lvad.commands.export import run
    elif command == "pipeline":
        from lvad.commands.pipeline import run
    elif command == "report":
        from lvad.commands.report import run
    elif command == "study":
        from lvad.commands.study import run
    elif command in STAGE_COMMANDS:
        return _run_stage(command, args)
    else:
        close = difflib.get_close_matches(command, (*OTHER_COMMANDS, *STAGE_COMMANDS), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"lvad: error: unknown command {command!r}{hint} (lvad --help lists them)", file=sys.stderr)
        return 2
    return run(args)


def _run_stage(command: str, args: list[str]) -> int:
    from lvad.commands.signals import Stopped, StopSignals

    with StopSignals() as stop:  # before the libraries are loaded, which takes seconds
        try:
            from lvad.commands.lightning_cli import run_lightning_command

            return run_lightning_command(command, args, stop)
        except Stopped:
            if not stop.is_child:
                print(f"lvad: {stop.exit_message([command, *args, *global_option_args()])}", file=sys.stderr)
            return stop.code


if __name__ == "__main__":
    sys.exit(main())
