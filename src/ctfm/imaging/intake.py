"""The series of one shard: what an earlier run finished, what comes in, and what becomes of each."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ctfm.config import Criteria, Machine, Prepare
from ctfm.errors import Quarantine, UserError
from ctfm.files import no_shortage, remove_temporaries
from ctfm.idc import download
from ctfm.imaging import convert, converters, criteria, pictures, store

BATCH = 8  # series on disk as DICOM at once, and as many on their way

log = logging.getLogger(__name__)


class Rules(NamedTuple):
    """How series are converted, which are wanted, and which of them both converters read."""

    settings: Prepare
    wanted: Criteria
    checked: frozenset[str]


def reuse(folder: Path, keys: dict[str, str], wanted: Criteria) -> dict[str, dict[str, Any]]:
    """Return the rows of volumes that an earlier run finished; remove all else that it left.

    Args:
        folder: of the shard.
        keys: ``{uid: key}`` of the shard's series (see ``convert.key``).
        wanted: the criteria of today; a volume that no longer meets them is removed and its row says so.
    """
    made = {}
    remove_temporaries(folder)
    for path in sorted(folder.glob("*.b2nd")):
        try:
            row = convert.describe(path, keys[path.stem])
        except (Quarantine, KeyError):
            path.unlink()
            continue
        try:
            criteria.check(store.open_volume(path).meta["source"], wanted)
            made[path.stem] = row | {"path": f"{folder.name}/{path.name}"}
        except Quarantine as reason:
            path.unlink()
            made[path.stem] = refused(reason)
    shutil.rmtree(folder / "thumbnails", ignore_errors=True)
    return made


def fetched(rows: pd.DataFrame, folder: Path, machine: Machine) -> Iterator[tuple[str, str]]:
    """Yield (uid, fault or '') of each series once it is here, while the next batch is on its way."""
    batches = [rows.iloc[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(download.fetch, batch, folder, machine) for batch in batches[:1]]
        for number, batch in enumerate(batches, start=1):
            faults = coming.pop().result()
            coming += [pool.submit(download.fetch, later, folder, machine) for later in batches[number : number + 1]]
            yield from ((uid, faults.get(uid, "")) for uid in batch["SeriesInstanceUID"])


def one(folder: Path, uid: str, fault: str, key: str, rules: Rules) -> dict[str, Any]:
    """Convert one series; return its part of the row, whether it went well or not."""
    start, source, target = time.monotonic(), folder / ".dicom" / uid, folder / f"{uid}.b2nd"
    try:
        if fault:
            code, _, detail = fault.partition(": ")
            raise Quarantine(code, detail)
        volume, facts = convert.convert(source, rules.settings, rules.wanted)
        if uid in rules.checked:
            facts["cross_check"] = _cross_check(source, rules)
        row = convert.keep(volume, facts, target, key)
        row["path"] = f"{folder.name}/{target.name}"
    except Quarantine as reason:
        log.warning("%s quarantined: %s", uid, reason)
        row = refused(reason)
        if (image := convert.picture(source)) is not None:
            pictures.write_png(image, folder / "thumbnails" / f"{uid}.png")
    return row | {"seconds": round(time.monotonic() - start, 3)}


def _cross_check(source: Path, rules: Rules) -> dict[str, Any]:
    """Read a good series with both converters; a fault of the other one is told and harms nothing."""
    try:
        with no_shortage(source):
            return converters.cross_check(source, rules.settings, rules.wanted)
    except (MemoryError, UserError):
        raise
    except Exception as error:
        return {"status": "refused", "detail": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def refused(reason: Quarantine) -> dict[str, Any]:
    """Return the row of a series that can't be used or isn't wanted."""
    return {"status": "quarantined", "reason": reason.code, "detail": reason.detail}


def cross_checks(folder: Path, uids: frozenset[str], shard: int) -> list[dict[str, Any]]:
    """Return the rows of table ``cross_checks``: what the volumes of a sample tell of their cross-check."""
    rows = []
    for uid in sorted(uids):
        path = folder / f"{uid}.b2nd"
        found = store.open_volume(path).meta["source"].get("cross_check") if path.is_file() else None
        if found:
            rows.append({"SeriesInstanceUID": uid, "shard": shard, **found})
            if found["status"] == "differs":
                log.warning("%s: the two converters differ: %s", uid, found["detail"])
    return rows
