"""The pages of the documentation, and what stands in their blocks."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "checkpoints/README.md")
PAGES = [*OUTSIDE, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str
    file: str
    """What the line above it calls the file that it is (`` `my.yaml`: ``); empty where it calls none."""


def text_of(page: str) -> str:
    """A page's text, by its path from the root."""
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[Block]:
    """The blocks of a page in one language, from the first to the last."""
    found = re.finditer(r"(?:`([\w./-]+)`:\n\n)?^```(\w+)\n(.*?)^```$", text_of(page), re.S | re.M)
    return [Block(page, match[2], match[3], match[1] or "") for match in found if match[2] == language]


def shell_lines(page: str) -> list[str]:
    """The commands of a page's shell blocks, without comments, continued lines joined."""
    joined = [block.text.replace("\\\n", " ") for block in blocks(page, "bash")]
    parts = [part for text in joined for line in text.splitlines() for part in line.split("&&")]
    return [" ".join(part.split()) for part in parts if part.strip() and not part.lstrip().startswith("#")]


def lvad_commands(page: str) -> list[list[str]]:
    """What stands behind ``lvad`` in the shell blocks of a page, in words; ``torchrun -m lvad.cli`` is one too."""
    found = [re.search(r"(?:^| )(?:lvad|-m lvad\.cli) (?!@)(.*)", line) for line in shell_lines(page)]
    return [shlex.split(match[1].removesuffix("&"), comments=True) for match in found if match]
