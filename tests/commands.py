"""The commands that stand in the documentation."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
PROGRAMS = ("ctfm", "snakemake", "make", "python", "pytest", "pip")


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: where it stands.
        words: as a shell would split it.
        whole: it stands in a block of its own, to be copied; else it is within a sentence and may be a part of one.
    """

    page: Path
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {' '.join(self.words)}"


def commands(page: Path) -> list[Command]:
    """Return all commands of a page whose program is one of ``PROGRAMS``."""
    text = page.read_text()
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.M | re.S)
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [line for line in outside.splitlines() if re.match(r" {4,}\S", line)]
    found = [Command(page, words, True) for line in lines for words in _parts(line)]
    inline = re.findall(r"`([^`\n]+)`", "\n".join(li for li in outside.splitlines() if not li.startswith("    ")))
    return found + [Command(page, words, False) for span in inline for words in _parts(span)]


def _parts(line: str) -> list[tuple[str, ...]]:
    """Return the commands that a line joins by ``&&``, without comments and settings of the environment."""
    found = []
    for part in line.split(" && "):
        try:
            words = shlex.split(part, comments=True)
        except ValueError:  # an apostrophe: prose, or the output of a command
            continue
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words.pop(0)
        if len(words) > 1 and Path(words[0]).name in PROGRAMS and "…" not in part:
            found.append((Path(words[0]).name, *words[1:]))
    return found


ALL = [command for page in PAGES for command in commands(page)]


def of(program: str) -> list[Command]:
    """Return the commands of a program, each once."""
    chosen = [command for command in ALL if command.words[0] == program]
    return list({(command.words, command.whole): command for command in chosen}.values())
