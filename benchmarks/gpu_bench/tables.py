"""The record as text."""

from typing import Any

VERDICTS = {True: "pass", False: "FAIL", None: ""}


def line(section: dict[str, Any]) -> str:
    """One section in a line."""
    rows = section["rows"]
    judged = [row["passed"] for row in rows if row["passed"] is not None]
    parts = [f"{len(rows)} rows"] + [f"{sum(judged)} of {len(judged)} pass"] * bool(judged)
    parts += [section["ended"]] * (section["ended"] != "done")
    missed = [f"{row['name']} ({row['note']})" for row in rows if row["passed"] is False]
    text = f"{section['name']:<18} {section['seconds']:6.1f} s  {', '.join(parts)}"
    return "\n    ".join([text, *missed])


def table(sections: dict[str, Any]) -> str:
    """All rows as Markdown."""
    lines = ["| section | row | figures | | commit |", "|---|---|---|---|---|"]
    for name, section in sections.items():
        commit = f"`{section['commit'][:7]}`"
        for row in section["rows"]:
            figures = ", ".join(f"{key} {shown(value)}" for key, value in row["figures"].items())
            verdict = " ".join(filter(None, [VERDICTS[row["passed"]], row["note"]]))
            lines.append(f"| {name} | {row['name']} | {figures} | {verdict.replace('|', '/')} | {commit} |")
        if section["ended"] != "done":
            lines.append(f"| {name} | | | {section['ended'].replace('|', '/')} | {commit} |")
    return "\n".join(lines)


def shown(value: float | str) -> str:
    """A figure with three digits, whole above a thousand."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
