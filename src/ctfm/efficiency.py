"""What a run took, rule by rule: from Snakemake's benchmarks, and from SLURM's accounting where there is one.

A benchmark tells of the try that succeeded; the accounting tells of every try, and of what was reserved for it.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from ctfm import spec
from ctfm.errors import UserError
from ctfm.files import atomic

HOUR, GB, MIB_GB = 3600.0, 1000.0, 2**20 / 1e9
SUBMITTED = re.compile(r"SLURM jobid (\d+) \(log: \S*/(?:rule_(\w+)|group_([^_/]+)\w*)/")
FIELDS = "JobIDRaw,State,ElapsedRaw,AllocTRES,MaxRSS"


def efficiency(
    config: Annotated[list[Path] | None, typer.Option(help="Configuration file(s).")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of the results; else that of the configuration.")] = None,
) -> None:
    """Print a table of time, memory and GPU-hours of each rule, and keep it as efficiency.csv beside the results."""
    folder = results or Path(spec.load(*(config or [Path("config/config.yaml")])).outdir)
    table = by_rule(benchmarks(folder / "benchmarks"))
    tries = accounted(submitted(Path(".snakemake/log")))
    if tries is not None:
        table = table.merge(by_group(tries), on="rule", how="outer")
    with atomic(folder / "efficiency.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    print(table.round(3).fillna("").to_markdown(index=False))


def benchmarks(folder: Path) -> pd.DataFrame:
    """Return a row for each benchmark: rule, seconds, cpu_seconds, peak_GB, requested_GB, gpus.

    Raises:
        UserError: there is none, or they are not the extended ones.
    """
    tables = [pd.read_csv(path, sep="\t", na_values="-") for path in sorted(folder.rglob("*.tsv"))]
    if not tables:
        raise UserError(f"{folder}: no benchmarks; run Snakemake first, or name the folder with --results")
    table = pd.concat(tables, ignore_index=True)
    if "rule_name" not in table or table["rule_name"].isna().all():
        raise UserError(f"{folder}: these benchmarks don't name their rules; run Snakemake with --benchmark-extended")
    requests = [resources_of(text) for text in table["resources"]]
    return pd.DataFrame(
        {
            "rule": table["rule_name"],
            "seconds": table["s"],
            "cpu_seconds": table["cpu_time"],
            "peak_GB": table["max_rss"] * MIB_GB,
            "requested_GB": [request.get("mem_mb", float("nan")) / GB for request in requests],
            "gpus": [gpus(request) for request in requests],
        }
    ).dropna(subset="rule")


def by_rule(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return for each rule: jobs, hours in all and of the longest, CPU-hours, GPU-hours, memory used and asked for."""
    jobs = jobs.assign(gpu_seconds=jobs["seconds"] * jobs["gpus"])
    rules = jobs.groupby("rule", sort=False)
    table = pd.DataFrame(
        {
            "jobs": rules.size(),
            "hours": rules["seconds"].sum() / HOUR,
            "longest_hours": rules["seconds"].max() / HOUR,
            "cpu_hours": rules["cpu_seconds"].sum() / HOUR,
            "gpu_hours": rules["gpu_seconds"].sum() / HOUR,
            "peak_GB": rules["peak_GB"].max(),
            "requested_GB": rules["requested_GB"].max(),
        }
    )
    return table.sort_values("hours", ascending=False).reset_index()


def gpus(request: Mapping[str, Any]) -> int:
    """Return the GPUs of a job by its resources: `gpu` of the job, or `gres` of each of its `nodes`."""
    each = re.fullmatch(r"gpu(?::\w+)??(?::(\d+))?", str(request.get("gres", "")))
    return int(each[1] or 1) * int(request.get("nodes", 1)) if each else int(request.get("gpu", 0))


def submitted(logs: Path) -> dict[str, str]:
    """Return {SLURM's job id: rule or group} of all jobs that Snakemake's logs tell of."""
    found = [SUBMITTED.findall(path.read_text()) for path in sorted(logs.glob("*.log"))]
    return {number: rule or group for jobs in found for number, rule, group in jobs}


def accounted(rules: Mapping[str, str]) -> pd.DataFrame | None:
    """Return what SLURM's accounting tells of these jobs, or None where there are none or it tells nothing."""
    if not rules:
        return None
    command = ["sacct", "--parsable2", "--noheader", f"--format={FIELDS}", f"--jobs={','.join(rules)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_sacct(done.stdout, rules) if done.stdout.strip() else None


def parse_sacct(text: str, rules: Mapping[str, str]) -> pd.DataFrame:
    """Return a row for each try: job, rule, state, seconds, gpus reserved, peak_GB over its steps.

    Args:
        text: lines of ``sacct --parsable2 --noheader`` with ``FIELDS``; a requeued job has more than one.
        rules: rule of each job.
    """
    lines = pd.read_csv(io.StringIO(text), sep="|", names=FIELDS.split(","), dtype=str, keep_default_na=False)
    lines["job"] = lines["JobIDRaw"].str.partition(".")[0]
    lines["peak_GB"] = lines["MaxRSS"].map(_bytes) / 1e9
    peaks = lines.groupby("job")["peak_GB"].max()
    tries = lines[~lines["JobIDRaw"].str.contains(".", regex=False) & lines["job"].isin(list(rules))]
    found = tries["AllocTRES"].str.extract(r"(?:^|,)gres/gpu=(\d+)")[0]
    return pd.DataFrame(
        {
            "job": tries["job"],
            "rule": tries["job"].map(rules),
            "state": tries["State"].str.split().str[0],
            "seconds": tries["ElapsedRaw"].astype(float),
            "gpus": found.fillna("0").astype(int),
            "peak_GB": tries["job"].map(peaks),
        }
    ).reset_index(drop=True)


def by_group(tries: pd.DataFrame) -> pd.DataFrame:
    """Return for each rule or group of rules: tries, those that failed, hours and GPU-hours that were reserved."""
    tries = tries.assign(gpu_seconds=tries["seconds"] * tries["gpus"], failed=tries["state"] != "COMPLETED")
    rules = tries.groupby("rule", sort=False)
    return pd.DataFrame(
        {
            "tries": rules.size(),
            "failed": rules["failed"].sum(),
            "reserved_hours": rules["seconds"].sum() / HOUR,
            "reserved_gpu_hours": rules["gpu_seconds"].sum() / HOUR,
            "reserved_peak_GB": rules["peak_GB"].max(),
        }
    ).reset_index()


def resources_of(text: Any) -> dict[str, Any]:
    """Return the resources that a benchmark writes as the text of a mapping."""
    return dict(ast.literal_eval(text)) if isinstance(text, str) else {}


def _bytes(text: str) -> float:
    """Return the bytes that SLURM writes as in 12K, 3.5M or 1G; nothing where it did not measure."""
    match = re.fullmatch(r"([\d.]+)([KMGT]?)", text)
    return float(match[1]) * 1024 ** " KMGT".index(match[2] or " ") if match else float("nan")
