"""Plan the whole run: time and memory of `snakemake -n` in a clean copy of the last commit.

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


def plan(place: Path, config: str) -> tuple[float, int]:
    """Return seconds and number of jobs; every plan starts with an empty .snakemake folder."""
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", config]
    environment = os.environ | {"PYTHONPATH": str(place / "src")}
    start = time.perf_counter()
    done = subprocess.run([*command, "--quiet"], cwd=place, env=environment, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"snakemake failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    found = re.search(r"^total\s+(\d+)", done.stdout + done.stderr, re.M)
    return took, int(found[1]) if found else 0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--config", default="config/config.yaml")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clean_copy(Path(folder))
        plans = [plan(Path(folder), chosen.config) for _ in range(chosen.repeats)]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    took = statistics.median(seconds for seconds, _ in plans)
    print(f"{chosen.config}: {plans[0][1]} jobs, {took:.1f} s (median of {len(plans)}), {peak:.0f} MB at most")


if __name__ == "__main__":
    main()
