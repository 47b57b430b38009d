"""Does a cluster take the jobs that a profile for SLURM describes? Asked before hours are spent.

Each check asks SLURM itself: a question to `sinfo`, a test of `sbatch --test-only`, or one tiny job on a node.
"""

from __future__ import annotations

import json as jsonlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
import yte

from ctfm import spec
from ctfm.errors import UserError
from ctfm.files import ensure_folder, need_file, read_json
from ctfm.idc import cost

PROFILE = Path("profiles/slurm/config.yaml")
LINES = ("partitions", "account", "gpu_type", "scratch", "environment")
ENVIRONMENTS = ("venv", "conda", "apptainer")
MODULES = {"venv": "ctfm, torch, snakemake", "conda": "snakemake", "apptainer": "snakemake"}
# How SLURM refuses, and which line of the profile is to blame.
REFUSALS = {
    r"[Ii]nvalid account|account/partition|AccountNotAllowed": "account",
    r"[Ii]nvalid partition": "partitions",
    r"[Ii]nvalid (generic resource|gres)|[Nn]ode configuration|[Gg]res": "gpu_type, gpus or nodes",
    r"[Tt]ime limit": "set-resources (runtime)",
    r"[Mm]emory|CPU count": "set-resources (mem_mb) or set-threads",
}


@dataclass(frozen=True)
class Finding:
    """What one check found; ``remedy`` is empty where all is well."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


class Refused(Exception):
    """A check fails.

    Attributes:
        remedy: what to do.
    """

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.remedy = remedy


@dataclass(frozen=True)
class Site:
    """What the profile says of the site; see ``profiles/slurm/config.yaml``."""

    partitions: Mapping[str, str]
    account: str | None
    gpu_type: str | None
    scratch: str | None
    environment: str
    gpus: int = 1
    nodes: int = 1
    accounting: bool = True

    @property
    def request(self) -> list[str]:
        """Return what asks for the GPUs of one pre-training job."""
        kind = f"gpu:{self.gpu_type}" if self.gpu_type else "gpu"
        each = self.gpus // self.nodes
        return [f"--nodes={self.nodes}", f"--ntasks-per-node={each}", f"--gres={kind}:{each}"]

    def submit(self, kind: str) -> list[str]:
        """Return the options that name partition and account."""
        account = [f"--account={self.account}"] if self.account else []
        return [f"--partition={self.partitions[kind]}", *account]


def cluster_check(
    config: Annotated[list[Path] | None, typer.Option(help="Configuration file(s).")] = None,
    profile: Annotated[Path, typer.Option(help="Profile for SLURM.")] = PROFILE,
    wait: Annotated[int, typer.Option(help="Seconds to wait for a node.")] = 120,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a line for each check: ok, or what is wrong and the remedy. Exit status 1 if one fails."""
    cfg = spec.load(*(config or [Path("config/config.yaml")]))
    site = read(profile)
    found = list(findings(site, Path(site.scratch or cfg.outdir), list(cfg.corpora), wait))
    print(jsonlib.dumps([asdict(f) for f in found], indent=1) if json else "\n".join(map(line, found)))
    if not all(finding.ok for finding in found):
        raise typer.Exit(1)


def line(finding: Finding) -> str:
    """Return a finding as one line."""
    mark = "ok   " if finding.ok else "WRONG"
    return f"{mark} {finding.check}: {finding.found}" + (f"; {finding.remedy}" if finding.remedy else "")


def read(profile: Path) -> Site:
    """Return a profile's site.

    Raises:
        UserError: the profile is missing or malformed, or a line of it is missing or wrong.
    """
    text = need_file(profile, "name the profile with --profile").read_text()
    try:
        lines = yaml.safe_load(text).get("__variables__", {})
        site = Site(**lines)
        yte.process_yaml(text, require_use_yte=True)
    except (yaml.YAMLError, yte.exceptions.YteError, AttributeError, TypeError) as error:
        why = " ".join(str(error).replace("Site.__init__() ", "").split())
        raise UserError(f"{profile}: {why}; its five lines are {', '.join(LINES)}") from error
    if not isinstance(site.partitions, Mapping) or set(site.partitions) != {"cpu", "gpu"}:
        raise UserError(f"{profile}: partitions: name two, as in {{cpu: short, gpu: gpu}}")
    if site.environment not in ENVIRONMENTS:
        raise UserError(f"{profile}: environment: must be one of {', '.join(ENVIRONMENTS)}")
    if site.gpus < 1 or site.nodes < 1 or site.gpus % site.nodes:
        raise UserError(f"{profile}: gpus: {site.gpus} can't be shared equally by {site.nodes} nodes")
    return site


def findings(site: Site, results: Path, corpora: list[str], wait: int) -> Iterator[Finding]:
    """Yield what each check finds; those that need a working SLURM are left out where there is none."""
    first = _find("SLURM", partial(_ask, "sinfo", "--version"))
    yield first
    if first.ok:
        for kind in ("cpu", "gpu"):
            yield _find(f"partition {site.partitions[kind]}", partial(_partition, site, kind))
        yield _find("account", partial(_test_only, site, "cpu", ["--ntasks=1"]))
        yield _find("GPUs", partial(_test_only, site, "gpu", site.request))
        yield _find("accounting", partial(_accounting, site))
        yield from _on_a_node(site, results, wait)
    for corpus in corpora:
        yield _find(f"disk for {corpus}", partial(_disk, results, corpus))


def _find(check: str, make: Callable[[], str]) -> Finding:
    try:
        return Finding(check, True, make())
    except Refused as refused:
        return Finding(check, False, str(refused), refused.remedy)


def _ask(*command: str, timeout: float = 60, remedy: str = "run this on a login node of the cluster") -> str:
    """Run a command of SLURM; return what it printed, on standard error too."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise Refused(f"no command '{command[0]}'", remedy) from error
    except subprocess.TimeoutExpired as error:
        raise Refused(f"'{command[0]}' did not answer in {timeout:g} s", "ask your site") from error
    said = " ".join((done.stdout + done.stderr).split())
    if done.returncode:
        raise Refused(said or f"'{command[0]}' ended with status {done.returncode}", remedy)
    return said


def _partition(site: Site, kind: str) -> str:
    known = _ask("sinfo", "--noheader", "--format=%R %a %l").split()
    states = {name: (state, limit) for name, state, limit in zip(known[::3], known[1::3], known[2::3], strict=True)}
    name = site.partitions[kind]
    if name not in states:
        raise Refused("no such partition", f"edit 'partitions'; there are {', '.join(sorted(states))}")
    state, limit = states[name]
    if state != "up":
        raise Refused(f"it is {state}", "edit 'partitions', or wait until it is up")
    return f"up, time limit {limit}"


def _test_only(site: Site, kind: str, request: list[str]) -> str:
    """Let SLURM say whether it would take such a job."""
    command = ["sbatch", "--test-only", *site.submit(kind), "--time=10", *request, "--wrap=true"]
    try:
        said = _ask(*command)
    except Refused as refused:
        why = str(refused).replace("sbatch: error: ", "").replace("allocation failure: ", "")
        blame = next((name for pattern, name in REFUSALS.items() if re.search(pattern, why)), "")
        remedy = f"edit '{blame}' in the profile" if blame else f"try: {shlex.join(command)}"
        raise Refused(why, remedy) from refused
    return re.sub(r"^sbatch: Job \d+ ", "", said)


def _accounting(site: Site) -> str:
    if not site.accounting:
        return "not used: the states of jobs come from squeue"
    _ask("sacct", "--noheader", "--starttime=now-1hour", remedy="set 'accounting: false' in the profile")
    return "sacct answers"


def _on_a_node(site: Site, results: Path, wait: int) -> Iterator[Finding]:
    """Run one tiny job, and yield what it tells of the file system and of the environment there."""
    try:
        with _job_folder(results) as folder:
            where = _run_there(site, folder, wait)
            tried = (folder / "python.txt").read_text().split()
    except Refused as refused:
        yield Finding("shared file system", False, str(refused), refused.remedy)
        return
    except (UserError, OSError) as error:
        yield Finding("shared file system", False, str(error), "edit 'scratch'")
        return
    yield Finding("shared file system", True, f"{where} writes to {results}, and it is seen here")
    if tried[-1:] == ["ok"]:
        yield Finding(f"environment {site.environment}", True, f"{sys.executable} runs on {where}")
    else:
        remedy = "put the environment on a file system that nodes see, and activate it before Snakemake"
        yield Finding(f"environment {site.environment}", False, " ".join(tried), remedy)


@contextmanager
def _job_folder(results: Path) -> Iterator[Path]:
    folder = ensure_folder(results) / f".cluster-check-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _run_there(site: Site, folder: Path, wait: int) -> str:
    """Run the job and return the node it ran on; it is cancelled if it takes too long."""
    place = shlex.quote(str(folder.resolve()))
    code = f"{shlex.quote(sys.executable)} -c 'import {MODULES[site.environment]}; print(\"ok\")'"
    script = f"cd {place} && {code} > python.txt 2>&1; hostname > node.tmp && mv node.tmp node.txt"
    options = ["--parsable", *site.submit("cpu"), "--time=5", "--mem=2000", "--ntasks=1", "--output=/dev/null"]
    number = _ask("sbatch", *options, f"--wrap={script}", remedy="see the checks above").split(";")[0]
    end = time.monotonic() + wait
    while not (folder / "node.txt").exists():
        os.scandir(folder).close()  # lets a network's file system look again
        if time.monotonic() > end:
            state = _ask("squeue", "--noheader", "--format=%T %r", f"--jobs={number}") or "gone from the queue"
            _ask("scancel", number)
            raise Refused(f"job {number} left nothing in {folder.parent} within {wait} s: {state}", _why_late(state))
        time.sleep(0.5)
    return (folder / "node.txt").read_text().strip()


def _why_late(state: str) -> str:
    if state.startswith("PENDING"):
        return "no node is free: try again with a longer --wait"
    return "edit 'scratch': name a folder that nodes and login node share"


def _disk(results: Path, corpus: str) -> str:
    path, free = results / "select" / corpus / "plan.json", cost.free_disk(results) / cost.TB
    if not path.is_file():
        raise Refused(f"{free:.2f} TB free, but what is needed is not known", "run: snakemake --profile slurm select")
    plan: dict[str, Any] = read_json(path)
    told = f"{free:.2f} TB free, {plan['peak_disk_TB']:.2f} TB needed in all"
    if free < plan["peak_disk_TB"]:
        raise Refused(told, "edit 'scratch', or free some (less is needed where a part is there already)")
    return told
