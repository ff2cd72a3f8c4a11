"""Writes docs/api_notebook.md, the page of docs/api.ipynb, with the pictures that its cells show.

python tools/notebook_page.py
"""

import base64
import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOK, PAGE = DOCS / "api.ipynb", DOCS / "api_notebook.md"
INTRODUCTION = """# A notebook

<!-- Written by python tools/notebook_page.py; a test compares. -->

This page is the notebook [api.ipynb](api.ipynb), with what its cells print. A test runs it.
"""


def page() -> tuple[str, dict[str, bytes]]:
    """The text of the page, and its pictures by the names of their files."""
    parts, pictures = [INTRODUCTION], {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("# ", "## ", 1) if source.startswith("# ") else source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"api_notebook_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell shows]({name})")
            elif text := printed(output):
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(part.strip() for part in parts) + "\n", pictures


def printed(output: dict[str, Any]) -> str:
    """The text of an output; that of libraries' warnings is left out."""
    if output.get("name") == "stderr":
        return ""
    return "".join(output["text"] if "text" in output else output["data"]["text/plain"]).rstrip()


def main() -> None:
    text, pictures = page()
    PAGE.write_text(text)
    for name, picture in pictures.items():
        (DOCS / name).write_bytes(picture)


if __name__ == "__main__":
    main()
