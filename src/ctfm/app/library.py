"""The scans that the page knows: those offered at the start and those sent; opened when they are first asked for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.app import intake, uploads
from ctfm.app.sources import Source
from ctfm.embedding import own
from ctfm.errors import Quarantine
from ctfm.imaging import store
from ctfm.options import Voxels

MOST_SENT = 12


@dataclass(frozen=True)
class Opened:
    """A scan on its own grid, axes (S, P, L).

    Attributes:
        volume: int16 HU.
        label: uint8 ids on the same grid, or None.
        ids: id to name.
        shown: the NIfTI file for the browser.
    """

    volume: store.Stored
    label: store.Stored | None
    ids: Mapping[int, str]
    shown: Path

    def voxel(self, point_mm: np.ndarray) -> Voxels | None:
        """Return the voxel (z, y, x) at a point in LPS mm, or None where there is none."""
        z, y, x = (int(i) for i in np.rint(own.of(self.volume).index(point_mm)))
        inside = all(0 <= i < n for i, n in zip((z, y, x), self.volume.shape, strict=True))
        return (z, y, x) if inside else None

    def at(self, point_mm: np.ndarray) -> dict[str, Any]:
        """Return ``voxel`` (z, y, x), ``hu`` and the name of the ``organ`` at a point in LPS mm; None for unknown."""
        voxel = self.voxel(point_mm)
        if voxel is None:
            return {"voxel": None, "hu": None, "organ": None}
        number = int(self.label.handle[voxel]) if self.label else 0
        organ = self.ids.get(number, f"label {number}") if number else None
        return {"voxel": list(voxel), "hu": int(self.volume.handle[voxel]), "organ": organ}


@dataclass
class Entry:
    """A scan of the library.

    Attributes:
        id: its name in addresses.
        source: where it is.
        folder: of what is made of it.
        sent: whether somebody sent it; then it may be removed.
    """

    id: str
    source: Source
    folder: Path
    sent: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> Opened:
        """Return the opened scan; the first time that takes a while.

        Raises:
            Quarantine: it can't be used.
        """
        with self.lock:
            intake.open_scan(self.source.image, self.source.label, self.folder, self.sent)
        label = self.folder / intake.LABEL
        return Opened(
            store.open_volume(self.folder / intake.SCAN),
            store.open_volume(label) if label.is_file() else None,
            self.source.ids,
            self.folder / intake.SHOWN,
        )

    def about(self) -> dict[str, Any]:
        """Return what the page lists without opening it."""
        return {"id": self.id, "name": self.source.name, "sent": self.sent, "organs": bool(self.source.label)}

    def details(self) -> dict[str, Any]:
        """Return the same, with ``shape`` (z, y, x) and ``affine`` (voxels z, y, x to LPS mm) of the scan's own grid.

        Raises:
            Quarantine: it can't be used.
        """
        volume = self.open().volume
        return {**self.about(), "shape": list(volume.shape), "affine": volume.affine.tolist()}


class Library:
    """All scans, by id.

    Args:
        offered: at the start.
        work: folder of everything that is made; removed by whoever made it.
    """

    def __init__(self, offered: list[Source], work: Path) -> None:
        self.work = work
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._count = 0
        for source in offered:
            self._add(source)

    def all(self) -> list[Entry]:
        """Return the scans in the order they came."""
        return list(self._entries.values())

    def get(self, name: str) -> Entry | None:
        """Return a scan, or None."""
        return self._entries.get(name)

    def receive(self, sent: Path, name: str) -> Entry:
        """Add a scan that somebody sent, whose file isn't needed after that; of what can't be used nothing is left.

        Raises:
            Quarantine: it can't be used, or too many were sent.
        """
        if sum(entry.sent for entry in self.all()) >= MOST_SENT:
            raise Quarantine("too_many_files", f"{MOST_SENT} scans were sent already; remove one first")
        with self._lock:
            self._count += 1
            entry = Entry(str(self._count), Source(uploads.name(name), sent), self.work / f"scan-{self._count}", True)
        try:
            entry.open()
        except BaseException:
            shutil.rmtree(entry.folder, ignore_errors=True)
            raise
        self._entries[entry.id] = entry
        return entry

    def remove(self, name: str) -> bool:
        """Forget a scan that was sent; return whether there was one."""
        entry = self._entries.get(name)
        if entry is None or not entry.sent:
            return False
        del self._entries[name]
        shutil.rmtree(entry.folder, ignore_errors=True)
        return True

    def _add(self, source: Source) -> None:
        self._count += 1
        name = str(self._count)
        self._entries[name] = Entry(name, source, self.work / f"scan-{name}")
