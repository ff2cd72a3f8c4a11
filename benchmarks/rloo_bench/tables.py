"""Rows of the benchmark as Markdown and as bars."""

from pathlib import Path
from typing import Any

PHASES = ("vision", "prefill", "decode", "old log-probs", "forward", "backward", "reward", "rest")
SIDES = ("trl", "lvad")
NAMES = {"rloo": "RLOOTrainer", "grpo": "GRPOTrainer", "none": "lvad alone"}


def name_of(row: dict[str, Any]) -> str:
    """What was compared, in a few words."""
    setting = row["setting"]
    parts = [setting["geometry"], f"{setting['frames']} x {setting['tiles']} tiles", f"k = {setting['k']}"]
    parts += ["LoRA"] * setting["lora"] + ["vision encoder frozen"] * setting["freeze_vision"]
    parts += [f"{setting['scenes']} scenes"] * (setting["scenes"] > 1) + ["seen before"] * setting["seen_before"]
    kept = [side for side in SIDES if side in row and row["checkpointing"][side]]
    return ", ".join([*parts, *[f"checkpointing: {' and '.join(kept)}"] * bool(kept)])


def phases_table(rows: list[dict[str, Any]]) -> str:
    """Where the seconds of each side go."""
    lines = ["| against | side | s | CPU s | " + " | ".join(PHASES) + " | tiles | positions | MiB |"]
    lines.append("|---" * (len(PHASES) + 7) + "|")
    for row in rows:
        for side in SIDES:
            if side not in row:
                continue
            cost = row[side]
            cells = [NAMES[row["against"]], side, f"{cost['wall_s']:.2f}", f"{cost['cpu_s']:.2f}"]
            cells += [f"{cost['phases_s'].get(phase, 0):.2f}" for phase in PHASES]
            cells += [f"{cost['counts'].get(n, 0):.0f}" for n in ("tiles", "positions")] + [f"{cost['peak_mib']:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary_table(rows: list[dict[str, Any]]) -> str:
    """One line per comparison."""
    lines = ["| setting | against | steps | TRL s | lvad s | times faster | in CPU s | memory | gradient pass |"]
    lines.append("|---" * 9 + "|")
    for row in rows:
        theirs = f"{row['trl']['wall_s']:.2f}" if "trl" in row else ""
        ratios = [f"{row[name]:.1f}" if name in row else "" for name in ("speedup", "speedup_cpu")]
        memory = f"1/{row['memory_ratio']:.1f}" if "memory_ratio" in row else f"{row['lvad']['peak_mib']:.0f} MiB"
        cells = [
            name_of(row),
            NAMES[row["against"]],
            str(row["steps"]),
            theirs,
            f"{row['lvad']['wall_s']:.2f}",
            *ratios,
        ]
        share = f"{100 * row['gradient_pass_share']:.0f} %"
        lines.append(f"| {' | '.join([*cells, memory, share])} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of the phases, the longest of each row as one: the rows' seconds differ by a thousand times."""
    from matplotlib.figure import Figure

    bars = []
    for row in rows:
        longest = max(row[side]["wall_s"] for side in SIDES if side in row)
        for side in SIDES:
            if side in row:
                who = NAMES[row["against"]] if side == "trl" else "lvad"
                name = f"{name_of(row)}\n{who}, {row[side]['wall_s']:.3g} s"
                bars.append((name, {phase: s / longest for phase, s in row[side]["phases_s"].items()}))
    figure = Figure(figsize=(10, 1 + 0.55 * len(bars)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(bars)
    for phase in PHASES:
        widths = [phases.get(phase, 0.0) for _, phases in bars]
        axes.barh(range(len(bars)), widths, left=left, label=phase)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize="small")
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlabel("time of a step, the row's longest = 1")
    figure.legend(loc="outside upper center", ncols=len(PHASES), fontsize="small")
    figure.savefig(path, dpi=120)
