"""Plan the whole run: time, processor time and memory of `snakemake -n` in a clean copy of the last commit.

Run it as

    python bench/dag.py [--config config/config.yaml] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def clean_copy(place: Path) -> None:
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(place)], input=archive, check=True)


def processor() -> float:
    """Return the processor time of children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plan(place: Path, config: str, *quiet: str) -> tuple[tuple[float, float], str]:
    """Return seconds, seconds of processor time, and what was said."""
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", config, "--quiet", *quiet]
    environment = os.environ | {"PYTHONPATH": str(place / "src")}
    start, before = time.perf_counter(), processor()
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    took = time.perf_counter() - start, processor() - before
    if done.returncode:
        sys.exit(f"snakemake failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return took, done.stdout + done.stderr


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--config", default="config/config.yaml")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clean_copy(Path(folder))
        times = [plan(Path(folder), chosen.config)[0] for _ in range(chosen.repeats)]
        jobs = re.search(r"^total\s+(\d+)", plan(Path(folder), chosen.config, "rules")[1], re.M)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    count = jobs[1] if jobs else "no"
    passed, used = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{chosen.config}: {count} jobs, {passed:.1f} s, {used:.1f} s of processor time, {peak:.0f} MB")


if __name__ == "__main__":
    main()
