"""The rows of ``rloo_step.json`` as the documents show them; time, memory and ratio of a row are of one run."""

from typing import Any

from markdown_tables import markdown

PROMPT_TOKENS = {1: 86, 5: 353, 17: 1147}
"""By tiles of a frame, of the question that is measured with."""
AGAINST = {"rloo": "RLOOTrainer", "grpo": "GRPOTrainer, `dr_grpo`"}


def _prompt(setting: dict[str, Any]) -> str:
    tiles, frames = setting["tiles"], setting["frames"]
    of = f"{frames} frames of {tiles} tile" if frames > 1 else f"{tiles} tile{'s' * (tiles > 1)}"
    return of if frames > 1 else f"{PROMPT_TOKENS[tiles]:,} tokens, {of}"


def _trained(setting: dict[str, Any]) -> str:
    what = "LoRA" if setting["lora"] else "all but the vision encoder" if setting["freeze_vision"] else "all"
    return what + (", small vision encoder" if "litevision" in setting["geometry"] else "")


def _checkpointing(row: dict[str, Any]) -> str:
    sides = [side for side in ("trl", "lvad") if side in row and row["checkpointing"][side]]
    return {"trl": "TRL", "lvad": "lvad"}[sides[0]] if len(sides) == 1 else "both" if sides else "neither"


def speed(rows: list[dict[str, Any]], gpu: dict[str, Any]) -> str:
    """The rows of the published shapes with k = 8, from short prompts to long ones, and the one of a GPU.

    Args:
        rows: of ``rloo_step.json``.
        gpu: ``gpu.json``; its section ``trl_rloo`` has one row.
    """
    rows = [row for row in rows if "trl" in row and row["setting"]["geometry"] != "embedded"]
    rows = [row for row in rows if row["setting"]["k"] == 8 and row["setting"]["frames"] == 1]
    rows.sort(key=lambda row: (row["setting"]["tiles"], not row["setting"]["lora"], -row["speedup"]))
    cells = [
        [
            f"{row['setting']['threads']} cores, {row['setting']['dtype']}",
            _prompt(row["setting"]),
            _trained(row["setting"]),
            AGAINST[row["against"]],
            _checkpointing(row),
            f"{row['trl']['wall_s']:.1f} s",
            f"{row['lvad']['wall_s']:.1f} s",
            f"{row['speedup']:.1f}",
            f"1/{row['memory_ratio']:.1f}",
            f"`{row['commit']}`",
        ]
        for row in rows
    ]
    header = ("machine", "prompt", "trained", "against", "checkpointing", "TRL", "lvad", "times faster")
    return markdown((*header, "memory of a step", "engine"), [*cells, _on_gpu(gpu)])


def _on_gpu(gpu: dict[str, Any]) -> list[str]:
    """The row of the section ``trl_rloo``: RLOOTrainer as it ships, so with checkpointing, at k = 8 and 17 tiles."""
    section = gpu["sections"]["trl_rloo"]
    (row,) = section["rows"]
    figures = row["figures"]
    return [
        f"{gpu['machine']['card']}, bfloat16",
        _prompt({"tiles": 17, "frames": 1}),
        "all",
        AGAINST["rloo"],
        "TRL",
        f"{figures['trl_s']:.1f} s",
        f"{figures['lvad_s']:.2f} s",
        f"{figures['times_faster']:.1f}",
        f"1/{figures['times_less_memory']:.1f}",
        f"`{section['commit'][:7]}`",
    ]


def steps(rows: list[dict[str, Any]]) -> str:
    """Every comparison of a step, with what it cost in CPU time."""
    cells = []
    for row in rows:
        if "trl" not in row:
            continue
        setting, each = row["setting"], row["lvad"]["wall_s_each"]
        kind = "embedded" if setting["geometry"] == "embedded" else f"{_prompt(setting)}"
        many = f", {setting['frames']} frames" if kind == "embedded" and setting["frames"] > 1 else ""
        few = f", k = {setting['k']}" if setting["k"] != 8 else ""
        cells.append(
            [
                f"{kind}{many}, {_trained(setting)}{few}",
                AGAINST[row["against"]],
                _checkpointing(row),
                str(row["steps"]),
                f"{row['trl']['wall_s']:.2f}",
                f"{row['lvad']['wall_s']:.2f} ({min(each):.2f} to {max(each):.2f})",
                f"{row['speedup']:.1f}",
                f"{row['speedup_cpu']:.1f}",
                f"1/{row['memory_ratio']:.1f}",
                f"{100 * row['gradient_pass_share']:.0f} %",
                f"`{row['commit']}`",
            ]
        )
    header = ("setting", "against", "checkpointing", "steps", "TRL s", "lvad s", "times faster", "in CPU s", "memory")
    return markdown((*header, "gradient pass", "engine"), cells)


def alone(rows: list[dict[str, Any]]) -> str:
    """Lvad by itself at the longest prompt."""
    rows = [row for row in rows if "trl" not in row]
    rows.sort(key=lambda row: (row["checkpointing"]["lvad"], row["setting"]["k"]))
    cells = []
    for row in rows:
        each = row["lvad"]["wall_s_each"]
        name = f"k = {row['setting']['k']}" + ", gradient checkpointing" * row["checkpointing"]["lvad"]
        seconds = f"{row['lvad']['wall_s']:.1f} ({min(each):.1f} to {max(each):.1f})"
        cells.append([name, seconds, f"{row['lvad']['peak_mib']:,.0f}", f"`{row['commit']}`"])
    title = f"lvad alone, {_prompt(rows[0]['setting'])}, {_trained(rows[0]['setting'])}"
    return markdown((title, "s", "MiB", "engine"), cells)
