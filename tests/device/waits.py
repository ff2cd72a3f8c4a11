"""How often the host waits for the device in one step of ``configs/rloo.yaml``, by phase and by line of lvad.

    python tests/device/waits.py FOLDER

prints a table, and writes ``waits.json`` into the folder. What makes a host wait for CUDA is counted: values that are
read back (``device to host``), results whose shape depends on values, and copies to the device that are not declared
``non_blocking`` (``host to device``).
"""

import functools
import json
import os
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, Final

READS: Final = ("device to host", "shape from values")
UPLOADS: Final = "host to device"
STEP: Final = 1  # the second; the first fills caches
ARGS: Final = [
    *(
        "fit",
        "--config",
        "configs/rloo.yaml",
        "--trainer.accelerator",
        "testdevice",
        "--trainer.strategy",
        "testdevice",
    ),
    *(
        "--data.source.format",
        "lastframe",
        "--data.source.root",
        "drawn",
        "--data.split.num_scenes",
        "{train: 16, val: 8, test: 8}",
    ),
    *("--trainer.max_steps", str(STEP + 1), "--trainer.num_sanity_val_steps", "0", "--trainer.limit_val_batches", "0"),
    *("--trainer.enable_progress_bar", "false", "--model.init_args.audit", "off", "--checkpoint.monitor", "null"),
    *("--plan.preflight", "false", "--recorder.export", "false"),
]


class Waits:
    """Counts by phase, kind and place; the innermost phase counts."""

    def __init__(self) -> None:
        self.is_on = False
        self.phases = ["rest"]
        self.states: Counter[tuple[str, str, str]] = Counter()

    def __call__(self, kind: str, operator: str) -> None:
        if self.is_on:
            self.states[self.phases[-1], kind, _place(operator)] += 1

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        """Count what a method does under a phase."""
        method = getattr(owner, name)

        @functools.wraps(method)
        def inside(*args: Any, **kwargs: Any) -> Any:
            self.phases.append(phase)
            try:
                return method(*args, **kwargs)
            finally:
                self.phases.pop()

        setattr(owner, name, inside)

    def by_phase(self) -> dict[str, dict[str, int]]:
        """Reads and uploads of each phase."""
        found: dict[str, dict[str, int]] = {}
        for (phase, kind, _), count in self.states.items():
            row = found.setdefault(phase, {"reads": 0, "uploads": 0})
            row["reads" if kind in READS else "uploads"] += count
        return found


def _place(operator: str) -> str:
    """The line of lvad that waits, or the nearest of a library's where no line of lvad is at work."""
    frames = traceback.extract_stack()[:-2]
    own = [
        frame for frame in frames if f"{os.sep}lvad{os.sep}" in frame.filename and "site-packages" not in frame.filename
    ]
    frame = (own or frames)[-1] if frames else None
    if frame is None:
        return f"a thread of the backward pass: {operator}"
    name = frame.filename.rpartition("site-packages" + os.sep)[2].rpartition(f"{os.sep}lvad{os.sep}")[2]
    return f"{name}:{frame.lineno} {(frame.line or '')[:80]}"


def measure() -> Waits:
    """Run the step."""
    import accelerator  # noqa: F401
    import backend
    from lightning.pytorch.callbacks import Callback

    from lvad.cli import main
    from lvad.commands.lightning_cli import StageCLI
    from lvad.modules import RLOOPolicy
    from lvad.policy import HFPolicy
    from lvad.rewards import CLIPCosine

    waits = Waits()
    for name in ("encode", "generate", "logprobs"):
        waits.wrap(HFPolicy, name, name)
    waits.wrap(HFPolicy, "reference_logprobs", "reference")
    waits.wrap(CLIPCosine, "score", "reward")
    waits.wrap(RLOOPolicy, "training_step", "rest of the step")

    class OneStep(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            waits.is_on = trainer.global_step == STEP

        def on_train_epoch_end(self, *_: Any) -> None:  # behind the last batch's logging, which counts
            waits.is_on = False

    instantiate = StageCLI.instantiate_trainer

    def with_counter(self: Any, **kwargs: Any) -> Any:
        trainer = instantiate(self, **kwargs)
        trainer.callbacks.insert(0, OneStep())  # before the others, whose work of the step counts, of the epoch not
        return trainer

    StageCLI.instantiate_trainer = with_counter
    with backend.watched(waits):
        if code := main(ARGS):
            raise RuntimeError(f"lvad fit ended with {code}")
    return waits


def table(waits: Waits) -> str:
    """Phases first, then lines."""
    rows = [f"{'reads':>6} {'uploads':>8}  phase"]
    rows += [f"{row['reads']:6} {row['uploads']:8}  {phase}" for phase, row in sorted(waits.by_phase().items())]
    rows += ["", " times  phase             what               where"]
    rows += [f"{n:6}  {phase:17} {kind:18} {where}" for (phase, kind, where), n in waits.states.most_common()]
    return "\n".join(rows)


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    os.chdir(folder)
    from lvad.data.synthetic import write_synthetic

    write_synthetic(Path("drawn"), num_train=16, num_val=8, num_test=8, progress=False)
    counted = measure()
    print(table(counted))
    Path("waits.json").write_text(json.dumps(counted.by_phase()))
