"""What a run took: time, processor- and GPU-hours, and the energy of both, from stated assumptions.

Nothing measures energy here. It is hours times watts: every GPU at the power that its maker states for the whole board,
every processor core at ``CORE_WATTS``; cooling, disks, network and idle machines are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ctfm import efficiency
from ctfm.errors import UserError
from ctfm.reporting.facts import Table, duration, number

CORE_WATTS = 10.0
# Board power by the makers' data sheets, W; the first name that is in the device's name counts.
GPU_WATTS = {
    "H200": 700.0,
    "H100 PCIe": 350.0,
    "H100": 700.0,
    "A100": 400.0,
    "L40S": 350.0,
    "V100": 300.0,
    "RTX 8000": 295.0,
    "A6000": 300.0,
    "4090": 450.0,
    "T4": 70.0,
}
OTHER_GPU_WATTS = 300.0
PAPER_GPU, PAPER_GPUS, PAPER_DAYS = "Quadro RTX 8000", 4, 24  # Methods, "Pre-training of the CT Foundation Model"


class Effort(NamedTuple):
    """What a run took, in all."""

    job_seconds: float
    cpu_hours: float
    gpu_hours: dict[str, float]  # by device
    rules: Table
    energy: Table

    @property
    def kwh(self) -> float:
        """Estimated energy, kWh."""
        return _kwh(self.cpu_hours, CORE_WATTS) + sum(_kwh(h, watts(name)) for name, h in self.gpu_hours.items())


def watts(device: str) -> float:
    """Return the board power that is assumed of a GPU, by its name."""
    return next((power for name, power in GPU_WATTS.items() if name.lower() in device.lower()), OTHER_GPU_WATTS)


def effort(root: Path, runs: Mapping[str, Mapping[str, Any]]) -> Effort:
    """Return what a run took.

    Args:
        root: folder of the run, with Snakemake's ``benchmarks``.
        runs: content of every run.json.
    """
    gpu_hours: dict[str, float] = defaultdict(float)
    for run in runs.values():
        if run.get("gpu_hours"):
            gpu_hours[str(run.get("hardware", {}).get("device", "GPU"))] += float(run["gpu_hours"])
    jobs = _jobs(root / "benchmarks")
    by_rule = efficiency.by_rule(jobs) if len(jobs) else pd.DataFrame()
    seconds, cpu_hours = float(jobs.seconds.sum()), float(jobs.cpu_seconds.sum()) / 3600
    return Effort(seconds, cpu_hours, dict(gpu_hours), _rules(by_rule), _energy(cpu_hours, gpu_hours))


def _jobs(folder: Path) -> pd.DataFrame:
    """Return the benchmarks of all jobs; none where they are not there or do not name their rules."""
    try:
        return efficiency.benchmarks(folder)
    except UserError:
        return pd.DataFrame({name: pd.Series(dtype=float) for name in ("seconds", "cpu_seconds")})


def _rules(rules: pd.DataFrame) -> Table:
    head = ["rule", "jobs", "time in all", "longest job", "CPU-hours", "GPU-hours reserved", "peak memory, GB", "asked"]
    rows = [
        [
            row.rule,
            number(int(row.jobs)),
            duration(row.hours * 3600),
            duration(row.longest_hours * 3600),
            number(row.cpu_hours, 2),
            number(row.gpu_hours, 2),
            number(row.peak_GB, 2),
            number(row.requested_GB, 1),
        ]
        for row in rules.itertuples()
    ]
    return Table(head, rows)


def _energy(cpu_hours: float, gpu_hours: Mapping[str, float]) -> Table:
    parts = [(f"GPU: {name}", hours, watts(name)) for name, hours in sorted(gpu_hours.items())]
    parts.append(("processor cores", cpu_hours, CORE_WATTS))
    rows = [[name, number(float(h), 2), number(w, 0), number(_kwh(h, w), 3)] for name, h, w in parts]
    hours, power = 24.0 * PAPER_DAYS * PAPER_GPUS, watts(PAPER_GPU)
    paper = f"for comparison, the paper's pre-training: {PAPER_GPUS} × {PAPER_GPU}, {PAPER_DAYS} days"
    rows.append([paper, number(hours, 0), number(power, 0), number(_kwh(hours, power), 0)])
    return Table(["what", "hours", "W assumed", "kWh estimated"], rows)


def _kwh(hours: float, power: float) -> float:
    return hours * power / 1000
