"""Tables of the releases of the Imaging Data Commons, from the package idc-index-data.

The installed package holds the newest release. An older one comes from an older version of the package, which can't be
installed beside it: its wheel is downloaded by pip, and its index is unpacked into a cache and held against the digest
in ``resources/idc_index_data.csv``.
"""

from __future__ import annotations

import csv
import importlib.util
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from ctfm import resources, spec
from ctfm.errors import UserError
from ctfm.files import atomic, ensure_folder, sha256

log = logging.getLogger(__name__)

PACKAGE = "idc-index-data"
INDEX, PRIOR, COLLECTIONS = "idc_index.parquet", "prior_versions_index.parquet", "collections_index.parquet"


class Pin(NamedTuple):
    """One table of one version of the package, as published."""

    release: int
    version: str
    file: str
    sha256: str
    rows: int


class Table(NamedTuple):
    """A table on disk, and the version of the package that it is of; none for a user's own."""

    path: Path
    version: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return what pins the table: no path, so that the same bytes give the same facts everywhere."""
        package = {"package": PACKAGE, "version": self.version} if self.version else {}
        return {"file": self.path.name, "sha256": sha256(self.path), **package}


class Installed(NamedTuple):
    """The installed package."""

    folder: Path
    version: str

    @property
    def release(self) -> int:
        """The IDC release that it describes."""
        return int(self.version.split(".")[0])

    def table(self, file: str) -> Table:
        """Return one of its tables.

        Raises:
            UserError: this version has no such table.
        """
        if not (self.folder / file).is_file():
            raise UserError(f"{PACKAGE} {self.version} has no {file}; pip install --upgrade {PACKAGE}")
        return Table(self.folder / file, self.version)


def installed() -> Installed:
    """Return the installed package.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec("idc_index_data")
    if found is None or not found.origin:
        raise UserError(f"{PACKAGE} is not installed; 'pip install {PACKAGE}', or set `index` of the corpus to a file")
    return Installed(Path(found.origin).parent, metadata.version(PACKAGE))


def pins() -> list[Pin]:
    """Return the tables of older releases that are known."""
    with resources.path("idc_index_data.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [Pin(int(row["release"]), row["version"], row["file"], row["sha256"], int(row["rows"])) for row in rows]


def cache() -> Path:
    """Return the folder of fetched tables: ``machine.cache``, or the user's cache folder."""
    folder = spec.machine().cache
    return (Path(folder).expanduser() if folder else Path(platformdirs.user_cache_dir("ctfm"))) / PACKAGE


def pair(releases: tuple[int, int], where: str) -> dict[str, Table]:
    """Return the tables that tell which series two releases hold, fetched where need be.

    Args:
        releases: of the criteria, and of the listing.
        where: key of the corpus in the configuration, for messages.

    Returns:
        ``listing``: the index of the second release; ``newest`` and ``prior``: the installed index, and that of
        versions that it has replaced.

    Raises:
        UserError: no version of the package lists the second release, or its table can't be had.
    """
    here, (statistics, listing) = installed(), releases
    if not 1 <= statistics <= here.release:
        raise UserError(
            f"{where}.releases: {PACKAGE} {here.version} knows the releases 1 to {here.release}, not {statistics}; "
            f"name one of these, or 'pip install --upgrade {PACKAGE}'"
        )
    known = {pin.release: pin for pin in pins()}
    if listing != here.release and listing not in known:
        raise UserError(
            f"{where}.releases: no version of {PACKAGE} that is known here lists release {listing}; list one of "
            f"{', '.join(map(str, sorted({*known, here.release})))}, or run the paper's query, on BigQuery "
            f"(select.backend: bigquery) or on tables of instances ({where}.dicom_all)"
        )
    listed = here.table(INDEX) if listing == here.release else Table(fetch(known[listing]), known[listing].version)
    return {"listing": listed, "newest": here.table(INDEX), "prior": here.table(PRIOR)}


def fetch(pin: Pin) -> Path:
    """Return a table of an older release from the cache; download it first if it is not there, or damaged.

    Raises:
        UserError: it can't be had; the message says why and what to do.
    """
    target = cache() / pin.version / pin.file
    if target.is_file() and sha256(target) == pin.sha256:
        return target
    ensure_folder(cache())
    by_hand = sorted(cache().glob(f"idc_index_data-{pin.version}-*.whl"))
    if by_hand:
        _unpack(by_hand[0], pin, target)
    else:
        with tempfile.TemporaryDirectory(dir=cache(), prefix=".download-") as folder:
            _unpack(_download(pin, Path(folder)), pin, target)
    log.info("%s %s: %s is in %s", PACKAGE, pin.version, pin.file, target.parent)
    return target


def _download(pin: Pin, folder: Path) -> Path:
    log.info("%s %s (IDC release %d) is not in the cache; pip fetches it", PACKAGE, pin.version, pin.release)
    download = ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command = [sys.executable, *download, "--dest", str(folder), f"{PACKAGE}=={pin.version}"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise UserError(
            f"{PACKAGE} {pin.version} lists IDC release {pin.release} and can't be fetched: {_reason(done.stderr)}. "
            f"Where there is a network: 'pip {' '.join(download[2:])} {PACKAGE}=={pin.version}', then put the wheel in "
            f"{cache()}; or set `releases: null` of the corpus, which takes the installed release alone"
        )
    return wheels[0]


def _reason(said: str) -> str:
    """Return what pip complained of: its last line, and what broke the connection if that is told."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("[notice]")]
    broken = [line.split("connection broken by ")[1] for line in lines if "connection broken by " in line]
    # Addresses of objects would differ every time.
    return (
        " after ".join([*lines[-1:], *(re.sub(r"<[^>]*>:? ?", "", line) for line in broken[-1:])]) or "pip said nothing"
    )


def _unpack(wheel: Path, pin: Pin, target: Path) -> None:
    """Take one table out of a wheel, whole and as published, or not at all."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(f"idc_index_data/{pin.file}")
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise UserError(f"{wheel.name}: no wheel that holds {pin.file} ({error}); fetch it again") from error
    with atomic(target) as temporary:
        temporary.write_bytes(content)
        found = sha256(temporary)
        if found != pin.sha256:
            raise UserError(
                f"{wheel.name}: {pin.file} has the SHA-256 {found}, and {pin.sha256} was published; fetch it again"
            )
