"""Download of the series of one batch, checked series by series; what came whole is never fetched again.

s5cmd can end well though nothing came, so its exit code is not trusted: files are counted and weighed against the
index. A series is fetched into a hidden folder, which gets its name when the series is whole.

Who is to blame decides what happens to a series that does not come. Its own fault (an object that is missing, closed,
cut short) costs only itself. A closed or absent bucket costs the series in it, unless nothing else came either (see
``check_reached``). A server that fails or keeps quiet when asked for the list of a series or for any of its files, a
full disk, or a crash of s5cmd costs no series: the job ends, to be started again.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ctfm.config import Machine
from ctfm.errors import UserError
from ctfm.files import ensure_folder, no_shortage
from ctfm.idc import s5cmd

log = logging.getLogger(__name__)

COMMANDS = "batch.s5cmd"
BACKOFF_S = 2.0  # before the first further try; doubles
REMEDY = "then start again: finished volumes are kept"
FULL = re.compile(r"no space left on device|disk quota exceeded", re.I)
# A fault of the network or the server, not of what was asked for.
OUTAGE = re.compile(
    r"no such host|dial tcp|connection re(fused|set)|network is unreachable|send request failed|broken pipe|\bEOF\b"
    r"|timeout|timed out|SlowDown|RequestTimeout|status code: (5\d\d|429)",
    re.I,
)
DENIAL = re.compile(r"status code: 40[134]")
# Most decimals of series_size_MB: it is a count of bytes over a million.
DECIMALS = 6


class Item(NamedTuple):
    """One series to fetch, what the index says of it, and where it goes."""

    uid: str
    url: str
    files: int
    bytes: float
    slack: float  # of the bytes, as the index rounds
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
        ``{uid: "code: detail"}`` of the series given up; the code is ``download_missing`` (nothing came),
        ``download_incomplete`` or ``download_refused`` (by the bucket). Empty when all are whole.

    Raises:
        UserError: s5cmd is missing or crashes, the server can't be reached or is out of order, or the disk is full.
    """
    ensure_folder(folder)
    sizes = [float("nan" if size is None else size) for size in rows["series_size_MB"]]
    columns = (rows["SeriesInstanceUID"], rows["series_aws_url"], rows["num_instances"], sizes, slack(sizes))
    items = [
        Item(uid, url, int(files), size * 1e6, loose, folder / uid)
        for uid, url, files, size, loose in zip(*columns, strict=True)
    ]
    todo = [item for item in items if not _is_whole(item)]
    local = [item for item in todo if item.url.startswith("file:")]
    return {**_settle(local, _link_all(local)), **_transfer([item for item in todo if item not in local], machine)}


def slack(sizes_mb: list[float]) -> list[float]:
    """Return by how many bytes each size may be off: half a unit of its last decimal.

    idc-index-data rounds to two decimals up to release 18 and not at all in release 25. A size may end in a zero
    by chance, so two decimals are believed as soon as one of the sizes shows them.
    """
    shown = [
        next((n for n in range(DECIMALS) if round(size, n) == round(size, DECIMALS)), DECIMALS) for size in sizes_mb
    ]
    usual = min(2, max(shown, default=0))
    return [0.5 * 10.0 ** (DECIMALS - max(n, usual)) + 0.1 for n in shown]


def check_reached(reasons: Collection[str], machine: Machine) -> None:
    """Refuse a shard of which every series was refused by its bucket.

    Args:
        reasons: the codes of all series of the shard; empty for finished volumes.
        machine: names the endpoint.

    Raises:
        UserError: the address is wrong, or none of this is public any more; either way no result.
    """
    if reasons and set(reasons) == {"download_refused"}:
        raise UserError(
            f"{_place(machine)}: refuses all {len(reasons)} series of this shard; "
            f"check machine.endpoint_url, or select again with a newer index, {REMEDY}"
        )


def _transfer(items: list[Item], machine: Machine) -> dict[str, str]:
    """Fetch series from S3 and again what did not come whole; return those given up."""
    faults: dict[str, str] = {}
    if not items:
        return faults
    commands = items[0].folder.with_name(COMMANDS)
    for attempt in range(machine.download_retries + 1):
        if attempt:
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        log.info("s5cmd: %d series, try %d of %d", len(items), attempt + 1, machine.download_retries + 1)
        outcome = s5cmd.run([s5cmd.Copy(item.url, item.partial) for item in items], commands, machine)
        complaints = {item.uid: _about(item, outcome) for item in items}
        if any(FULL.search(complaint.why) for complaint in outcome.complaints):
            raise UserError(f"{commands.parent}: the disk is full; free some, {REMEDY}")
        faults = _settle(items, complaints)
        items = [item for item in items if item.uid in faults]
        if not items:
            break
    if items:
        _refuse_outage(faults, complaints, f"{outcome.crash}; see {commands}" if outcome.crash else "", machine)
    for uid, fault in faults.items():
        log.warning("series %s given up: %s", uid, fault)
    commands.unlink(missing_ok=True)
    return faults


def _place(machine: Machine) -> str:
    return machine.endpoint_url or "Amazon S3"


def _about(item: Item, outcome: s5cmd.Outcome) -> list[s5cmd.Complaint]:
    """Return what s5cmd complains of a series; or that it waited for it, for an object or for the listing."""
    found = [c for c in outcome.complaints if f"{os.sep}{item.partial.name}{os.sep}" in c.command]
    if found or not outcome.stalled:
        return found
    waited = "object" if item.partial in outcome.halves else item.url
    return [s5cmd.Complaint(waited, f"timeout: no byte in {s5cmd.STALL_S:g} s")]


def _refuse_outage(
    faults: dict[str, str], complaints: dict[str, list[s5cmd.Complaint]], crash: str, machine: Machine
) -> None:
    """Raise a UserError when what did not come is no fault of the series."""
    if crash:
        raise UserError(f"s5cmd: {crash}, {REMEDY}")
    for uid, fault in faults.items():
        said = complaints[uid]
        unlisted = any("*" in complaint.command for complaint in said)
        if said and all(OUTAGE.search(c.why) for c in said) and (unlisted or fault.startswith("download_missing")):
            raise UserError(
                f"{_place(machine)}: can't be reached or is out of order (series {uid}: {said[0].short}); "
                f"check the network and machine.endpoint_url, {REMEDY}"
            )


def _link_all(items: list[Item]) -> dict[str, list[s5cmd.Complaint]]:
    """Bring series that are on this machine; return what went wrong, as of S3."""
    complaints = {}
    for item in items:
        try:
            with no_shortage(item.folder.parent):
                _link(item)
        except OSError as error:
            complaints[item.uid] = [s5cmd.Complaint(item.url, error.strerror or type(error).__name__)]
    return complaints


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


def _settle(items: list[Item], complaints: dict[str, list[s5cmd.Complaint]]) -> dict[str, str]:
    """Give whole series their names; return the faults of the others, and the first complaint about each."""
    faults = {}
    for item in items:
        if not (fault := _fault(item, item.partial)):
            item.partial.replace(item.folder)
            continue
        said = complaints.get(item.uid, [])
        if said and "*" in said[0].command and DENIAL.search(said[0].why):
            fault = "download_refused: by the bucket"
        place = f"{item.folder.parent}{os.sep}"
        faults[item.uid] = fault + (f" ({said[0].short.replace(place, '')})" if said else "")
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
    if abs(sum(sizes) - item.bytes) > item.slack:  # never true of an unknown size (NaN)
        return f"download_incomplete: {sum(sizes):,} bytes, the index says {item.bytes:,.0f}"
    return ""
