"""Check that a tag can be released, and print what is new: ``python docs/release.py v0.1.0``.

The version of the package, of CITATION.cff and of the tag are one, and CHANGELOG.md has a section for it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from ctfm import __version__

ROOT = Path(__file__).resolve().parents[1]


def news(tag: str) -> str:
    """Return the section of the changelog for a tag.

    Raises:
        ValueError: a version is another one, or there is no such section; the message says where.
    """
    version = tag.removeprefix("v")
    cited = str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"])
    for where, found in (("src/ctfm/__init__.py", __version__), ("CITATION.cff", cited)):
        if found != version:
            raise ValueError(f"{where} has version {found}, the tag is {tag}")
    sections = re.split(r"^## \[(.+?)\].*$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    found_sections = dict(zip(sections[1::2], sections[2::2], strict=True))
    if version not in found_sections:
        raise ValueError(f"CHANGELOG.md has no section [{version}]")
    return found_sections[version].strip()


if __name__ == "__main__":
    try:
        print(news(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"error: {error}")
