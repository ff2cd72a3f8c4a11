"""``samples.jsonl``: the completions of the fixed scenes, a row per scene and validation."""

import json
from pathlib import Path
from typing import Any

from lvad.data.reading import load_json, read_text
from lvad.errors import DataError
from lvad.report.runs import write_atomically
from lvad.types import SceneSamples


def sample_row(scene: SceneSamples, step: int) -> str:
    """Write the completions of a scene at a step as one line of JSON."""
    completions = []
    for k, text in enumerate(scene.texts):
        completion: dict[str, Any] = {"text": text}
        if scene.rewards:
            completion["reward"] = scene.rewards[k]
        if scene.advantages:
            completion["advantage"] = scene.advantages[k]
        completion["terms"] = {name: values[k] for name, values in scene.terms.items()}
        completions.append(completion)
    return json.dumps({"step": step, "id": scene.id, "completions": completions})


def rows_before(path: Path, step: int) -> list[str]:
    """Read the rows of earlier steps; there are none without a file.

    Raises:
        DataError: for a row that is none of samples.
    """
    text = read_text(path) if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()  # without the half line of a copy that was cut off
    return [row for number, row in enumerate(whole, start=1) if _step_of(row, path, f"line {number}") < step]


def _step_of(row: str, path: Path, where: str) -> int:
    match load_json(row, path, where):
        case {"step": int(step)}:
            return step
    raise DataError.at(path, where, "is no row of samples", "move the file away: a fit that goes on needs none")


def write_rows(path: Path, rows: list[str]) -> None:
    """Replace the rows of the file; without rows no file is made."""
    if rows or path.is_file():
        write_atomically(path, "".join(f"{row}\n" for row in rows))
