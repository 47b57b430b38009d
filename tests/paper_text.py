"""The numbers of the paper's text, read by rules that know nothing of resources/paper.csv."""

from __future__ import annotations

import re

# What looks like a number and claims nothing, in the order in which it is taken away.
NOT_CLAIMS = (
    r"\[[^\]]*\]\([^)]*\)",  # citations with their links
    r"\$\$.*?\$\$",  # formulas
    r"\$[^$\n]*\$",  # formulas within a line, and what reading the drawings left
    r"[A-Za-z]_?\d(?:\^[A-Z])?(?:,\d)* = .*",  # formulas that lost their signs
    r"\b[a-z]_\d\^[A-Z]",
    r"(?:Figures?|Fig\.|Table|Target scan) \**\d+[a-f]?",
    r"^S\d: .*$|S\d: [A-Z][^.]*? \d+(?= S\d|$)",  # the supplement's table of contents
    r"(?<![\d.])\d\) ",  # steps
    r"[23]D\b|\bF1\b|CQ500|Auto3DSeg|AutoSeg3D|VISTA3D|rganMNIST3D|SegmentatorV2|LITS'17|RTX ?8000",
    r"DINOv2|Jetstream 2|Med-Gemini 6\.7|float64|\bSeg3D\b",
    r"\b(?:27 27 27|28 28 28)\b",  # references set apart
    r"\b(?:2012|2016|2020)\b",  # years
    r"^\s*0\.\d+\s*$",  # marks on the axes of drawings
)
NUMBER = re.compile(r"(?:10\^\{?)?(?<![\d.])\d+(?:\.\d+)?")


def claims(text: str) -> list[str]:
    """Return the numbers of abstract, results, methods, captions and query, in the order of the text."""
    body = text[text.index("Abstract |") : text.index("ACKNOWLEDGEMENTS")]
    rest = text[text.index("a Top 25 improvements") :]
    return [number for part in (body, rest) for number in _numbers(part)]


def _numbers(text: str) -> list[str]:
    for pattern in NOT_CLAIMS:
        text = re.sub(pattern, " ", text, flags=re.M | (re.S if pattern.startswith(r"\$\$") else re.NOFLAG))
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"1×10\^\{-(\d)\}|10⁻⁶", lambda m: "0." + "0" * (int(m[1] or 6) - 1) + "1", text)
    return [match[0] for match in NUMBER.finditer(text)]
