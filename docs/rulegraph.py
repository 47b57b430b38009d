"""Draw the rules of the paper's run and what each takes from which: ``docs/images/rules.svg``.

``python docs/rulegraph.py`` asks Snakemake (``--rulegraph``) and writes the picture; with ``--check`` it only says
whether the picture is up to date. Rules stand in rows, each below all that it takes something from; an edge that
follows from others is left out. Within rows, places follow the mean of their neighbours' (Sugiyama,
doi:10.1109/TSMC.1981.4308636).
"""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/images/rules.svg"
CONFIG = "config/config.yaml"
LEFT_OUT = {"all"}  # it does no work
WIDTH, ROW, BOX, HEIGHT, BEND = 720, 64, 150, 30, 28  # pixels
SWEEPS = 8
# Colours of Okabe and Ito, which people with colour-blindness can tell apart.
CPU, GPU = "#0072b2", "#d55e00"

Edges = set[tuple[str, str]]


def rules_of(config: str) -> Edges:
    """Return (rule, rule that takes from it) for a run of this configuration."""
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "--configfile", config]
    dot = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)"', dot, re.M))
    pairs = {(names[a], names[b]) for a, b in re.findall(r"^\s*(\d+) -> (\d+)", dot, re.M)}
    return {(a, b) for a, b in pairs if not {a, b} & LEFT_OUT}


def reduced(edges: Edges) -> Edges:
    """Leave out each edge that a longer way makes needless."""

    def reach(node: str) -> set[str]:
        return {node}.union(*(reach(b) for a, b in edges if a == node))

    return {(a, b) for a, b in edges if not any(b in reach(c) for d, c in edges if d == a and c != b)}


def depths(edges: Edges) -> dict[str, int]:
    """Return the row of each rule: below all that it takes from; first ones stand right above what takes from them."""
    before = {node: {a for a, b in edges if b == node} for edge in edges for node in edge}

    def deep(node: str) -> int:
        return max((deep(a) + 1 for a in before[node]), default=0)

    row = {node: deep(node) for node in before}
    first = {node: min(row[b] for a, b in edges if a == node) - 1 for node in before if not before[node]}
    return row | first


def steps(edges: Edges, row: dict[str, int]) -> tuple[Edges, dict[str, int]]:
    """Cut edges into steps of one row; the places between have a row, and names that no rule has."""
    cut, rows = set(), dict(row)
    for a, b in edges:
        way = [a, *(f"{a}>{b}>{n}" for n in range(row[a] + 1, row[b])), b]
        rows |= {place: row[a] + n for n, place in enumerate(way)}
        cut |= set(pairwise(way))
    return cut, rows


def places(cut: Edges, rows: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Return x and y of every place: rows are ordered downwards and upwards by turns, by the mean of neighbours."""
    ordered = [sorted(p for p in rows if rows[p] == n) for n in range(max(rows.values()) + 1)]
    x: dict[str, float] = {}
    for sweep in range(SWEEPS):
        for row in ordered if sweep % 2 == 0 else reversed(ordered):
            near = {p: [x[q] for e in cut if p in e for q in e if q != p and q in x] for p in row}
            row.sort(key=lambda p: (sum(near[p]) / len(near[p]) if near[p] else x.get(p, WIDTH / 2), p))
            weights = [1.0 if ">" not in p else 0.35 for p in row]
            left = (WIDTH - sum(weights) * (BOX + BEND)) / 2
            for p, weight in zip(row, weights, strict=True):
                x[p] = left + weight * (BOX + BEND) / 2
                left += weight * (BOX + BEND)
    return {p: (x[p], (rows[p] + 0.5) * ROW) for p in rows}


def on_gpus() -> set[str]:
    """Return the rules that ask for GPUs."""
    texts = "\n".join(file.read_text() for file in sorted((ROOT / "rules").glob("*.smk")))
    rules = re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", texts, re.M | re.S)
    return {name for name, text in rules if re.search(r"\bgpu=", text)}


def drawing(edges: Edges) -> str:
    """Return the picture as SVG."""
    cut, rows = steps(edges, depths(edges))
    at, gpus = places(cut, rows), on_gpus()
    high = (max(rows.values()) + 1) * ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}"',
        'font-family="sans-serif" font-size="12">',
        "<title>The rules of the workflow, and which takes from which</title>",
        f'<rect width="{WIDTH}" height="{high}" fill="#ffffff"/>',
    ]
    for a, b in sorted(cut):
        (x, y), (to_x, to_y) = at[a], at[b]
        y, to_y = y + (0 if ">" in a else HEIGHT / 2), to_y - (0 if ">" in b else HEIGHT / 2)
        path = f"M{x:.1f} {y:.1f}C{x:.1f} {y + BEND:.1f} {to_x:.1f} {to_y - BEND:.1f} {to_x:.1f} {to_y:.1f}"
        lines.append(f'<path d="{path}" fill="none" stroke="#8a8a8a" stroke-width="1.5"/>')
    for rule in sorted(p for p in rows if ">" not in p):
        (x, y), colour = at[rule], GPU if rule in gpus else CPU
        box = f'x="{x - BOX / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{BOX}" height="{HEIGHT}" rx="6"'
        lines.append(f'<rect {box} fill="#ffffff" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="#222222">{rule}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Write the picture, or check it."""
    wanted, check = drawing(reduced(rules_of(CONFIG))), "--check" in sys.argv[1:]
    old = not PICTURE.exists() or PICTURE.read_text() != wanted
    if old and not check:
        PICTURE.write_text(wanted)
    if old:
        print(f"{'out of date' if check else 'written'}: {PICTURE.relative_to(ROOT)}")
    sys.exit(1 if check and old else 0)


if __name__ == "__main__":
    main()
