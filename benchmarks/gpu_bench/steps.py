"""What a step of RLOO costs: phases, memory, share of the card's peak rate; and TRL's trainers beside it."""

import importlib.util
import statistics
import tempfile

import torch
from rloo_bench.ours import Ours
from rloo_bench.setting import Cost, Setting, Side

from gpu_bench.bench import Bench
from gpu_bench.operations import Work, gradient_pass, peak_rate
from gpu_bench.rows import Row, Rows
from lvad.policy.adapters import Lora

SIZES = {"1 x 17 tiles x 8 x 40": (1, 17, 8, 40), "8 x 5 x 8 x 64": (8, 5, 8, 64), "32 x 1 x 8 x 64": (32, 1, 8, 64)}
"""Scenes, tiles of each, completions of each, tokens of each."""
TINY = {"2 x 1 x 2 x 4": (2, 1, 2, 4)}
STEP_S = {"1 x 17 tiles x 8 x 40": 0.3, "8 x 5 x 8 x 64": 0.6}
"""At most, with all weights of the 256M shapes trained."""
PEAK_SHARE = {("smolvlm-256m", "8 x 5 x 8 x 64"): 0.15, ("smolvlm-2b", "8 x 5 x 8 x 64"): 0.3}
"""At least, with all weights trained."""
TIMED = 3


def setting_of(bench: Bench, geometry: str, size: tuple[int, int, int, int], lora: bool, frozen: bool) -> Setting:
    """New frames in every step, one of each scene; bfloat16 where there is a GPU."""
    scenes, tiles, k, tokens = size
    if bench.is_tiny:
        geometry = "embedded"
    return Setting(geometry, tiles, 1, scenes, k, tokens, lora, frozen, bench.dtype, False)


def side_of(bench: Bench, setting: Setting) -> Side:
    return Side(bench.model_folder(setting.geometry, setting.tiles, setting.dtype), setting)


def median_of(costs: list[Cost]) -> dict[str, float | str]:
    """Seconds of a step and of its phases, the median of each."""
    figures: dict[str, float | str] = {"step_s": statistics.median(cost.wall_s for cost in costs)}
    for phase in costs[0].phases_s:
        figures[f"{phase}_s"] = statistics.median(cost.phases_s[phase] for cost in costs)
    return figures


def share_of_peak(ours: Ours, figures: dict[str, float | str]) -> dict[str, float | str]:
    """Operations of the gradient pass, and their rate as a share of the card's, where that is known."""
    setting, policy = ours.setting, ours.module.policy
    lengths = ours.prompt_lengths()
    work = Work(lengths, setting.k, setting.tokens, setting.scenes * setting.frames * setting.tiles)
    operations = gradient_pass(policy.vlm.config, work, Lora().rank * setting.lora, not setting.freeze_vision)
    seconds = sum(float(figures[f"{phase}_s"]) for phase in ("prefill", "forward", "backward"))
    found: dict[str, float | str] = {"prompt_tokens": sum(lengths), "tera_operations": operations / 1e12}
    peak = peak_rate(torch.cuda.get_device_name()) if setting.device.type == "cuda" else None
    return found | ({"peak_share": operations / seconds / peak} if peak else {})


def step_row(bench: Bench, geometry: str, name: str, lora: bool, frozen: bool) -> Row:
    setting = setting_of(bench, geometry, {**SIZES, **TINY}[name], lora, frozen)
    ours = Ours(side_of(bench, setting), checkpointing=False)
    ours.step(0, with_memory=False)
    figures = median_of([ours.step(1 + i, with_memory=False) for i in range(TIMED)])
    figures["peak_mib"] = ours.step(1 + TIMED, with_memory=True).peak_mib
    if bench.device.type == "cuda":
        figures["all_mib"] = torch.cuda.max_memory_allocated() / 2**20
    figures |= share_of_peak(ours, figures)
    label = f"{name}, {'LoRA' if lora else 'all weights'}, tower {'frozen' if frozen else 'trained'}"
    if bench.is_tiny or lora or frozen:
        return Row(label, figures)
    at_most = {"step_s": STEP_S[name]} if geometry == "smolvlm-256m" and name in STEP_S else {}
    share = PEAK_SHARE.get((geometry, name))
    at_least = {"peak_share": share} if share and "peak_share" in figures else {}
    return Row.judged(label, figures, at_most, at_least)


def steps_256m(bench: Bench) -> Rows:
    """At the shapes of SmolVLM-256M."""
    for frozen in (False, True):
        for name in TINY if bench.is_tiny else SIZES:
            yield step_row(bench, "smolvlm-256m", name, False, frozen)


def steps_2b(bench: Bench) -> Rows:
    """At the shapes of the 2.2 B SmolVLM; adapters lie on a base in bfloat16 with a frozen tower."""
    for lora, frozen in ((False, False), (True, True), (False, True)):
        for name in TINY if bench.is_tiny else ["8 x 5 x 8 x 64"]:
            yield step_row(bench, "smolvlm-2b", name, lora, frozen)


def trl_rloo(bench: Bench) -> Rows:
    """TRL's RLOOTrainer as it ships, and lvad, in turns."""
    yield from _beside_trl(bench, "rloo", {"times_faster": 10.0, "times_less_memory": 4.0})


def trl_grpo(bench: Bench) -> Rows:
    """TRL's strongest configuration on policy."""
    yield from _beside_trl(bench, "grpo", {})


def _beside_trl(bench: Bench, algorithm: str, at_least: dict[str, float]) -> Rows:
    if importlib.util.find_spec("trl") is None:
        yield Row(algorithm, note="left out: trl is not installed (extra 'bench')")
        return
    for name, size in (TINY if bench.is_tiny else {name: SIZES[name] for name in STEP_S}).items():
        side = side_of(bench, setting_of(bench, "smolvlm-256m", size, False, False))
        yield Row.judged(name, _turns(side, algorithm), at_least={} if bench.is_tiny else at_least)


def _turns(side: Side, algorithm: str) -> dict[str, float | str]:
    """Two steps of TRL, each followed by steps of lvad; the first of each warms up, the last measures the memory."""
    from rloo_bench.theirs import train

    ours, mine = Ours(side, checkpointing=False), []

    def between(number: int) -> None:
        mine.extend(ours.step(number + 1000 * i, with_memory=False) for i in range(TIMED))

    with tempfile.TemporaryDirectory() as folder:
        theirs = train(side, algorithm, True, 2, between, folder)[-1]
    peak_mib = ours.step(3, with_memory=True).peak_mib
    step_s = statistics.median(cost.wall_s for cost in mine[TIMED:])
    return {
        "trl_s": theirs.wall_s,
        "lvad_s": step_s,
        "times_faster": theirs.wall_s / step_s,
        "trl_mib": theirs.peak_mib,
        "lvad_mib": peak_mib,
        "times_less_memory": theirs.peak_mib / peak_mib,
        **{f"trl {phase}_s": seconds for phase, seconds in theirs.phases_s.items()},
    }
