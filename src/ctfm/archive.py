"""A published archive: downloaded so that a broken transfer goes on, held against its checksum, unpacked whole."""

from __future__ import annotations

import hashlib
import http.client
import logging
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ctfm.errors import UserError
from ctfm.files import ensure_folder, no_shortage

SECONDS = 60  # without a byte, after which a transfer has failed
CHUNK = 1 << 20

log = logging.getLogger(__name__)


def fetch(source: Mapping[str, Any], root: Path, marker: str) -> dict[str, Any]:
    """Make ``root`` the unpacked archive, unless ``marker`` is there; what was downloaded before is not again.

    Args:
        source: ``url``, ``checksum`` (``md5:...`` or ``sha256:...``), ``version``, and ``bytes``; None where these are
            not published: the server is asked.
        root: folder of the data set; the archive lies beside it until it is unpacked.
        marker: a file of the data set, as it is called within ``root``: that finds the folder in the archive.

    Returns:
        Facts: version, url and checksum; whether it was ``fetched``, and so checked, by this call.

    Raises:
        UserError: it can't be fetched, is not what was published, or the disk is too small.
    """
    facts = {key: source[key] for key in ("version", "url", "checksum")}
    if (root / marker).is_file():
        log.info("%s is there: nothing is fetched, and nothing held against the published checksum", root)
        return facts | {"fetched": False}
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root}: is not empty and has no {marker}; empty it, or name another root")
    archive = ensure_folder(root.parent) / f"{root.name}.download"
    with no_shortage(root.parent):
        _check(source, archive, _download(source, archive))
        _unpack(archive, root, marker)
    archive.unlink()
    return facts | {"fetched": True}


def _download(source: Mapping[str, Any], archive: Path) -> int:
    """Append what is missing; a server that can't go on in the middle starts anew. Returns the bytes that it has."""
    have = archive.stat().st_size if archive.is_file() else 0
    known = source["bytes"]
    _need_space(archive.parent, (known or have) - have)
    if known and have >= known:
        return known
    log.info("fetching %s (%s, %.1f GB here already)", source["url"], _size(known), have / 1e9)
    request = urllib.request.Request(source["url"], headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            goes_on = answer.status == http.client.PARTIAL_CONTENT
            whole = known or int(answer.headers.get("Content-Length") or 0) + have * goes_on
            _need_space(archive.parent, whole - have * goes_on)
            with archive.open("ab" if goes_on else "wb") as stream:
                shutil.copyfileobj(answer, stream, CHUNK)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        if getattr(error, "code", None) == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return have  # all of it is here; its checksum decides
        raise UserError(
            f"{source['url']}: can't be fetched ({error}); start again, which goes on where this stopped, or fetch and "
            f"unpack it yourself and name the folder in the configuration"
        ) from error
    return whole


def _size(count: int | None) -> str:
    return f"{count / 1e9:.1f} GB" if count else "of a size that is not published"


def _check(source: Mapping[str, Any], archive: Path, whole: int) -> None:
    size = archive.stat().st_size
    if size < whole:
        raise UserError(f"{source['url']}: the transfer broke off after {size} of {whole} bytes; start again")
    kind, _, wanted = source["checksum"].partition(":")
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != wanted:
        archive.unlink()
        raise UserError(
            f"{source['url']}: its {kind} is {found}, and {wanted} was published; it is removed, fetch anew"
        )


def _unpack(archive: Path, root: Path, marker: str) -> None:
    """Unpack beside ``root`` and rename at the end, so that ``root`` is whole or absent."""
    work = root.with_name(f"{root.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                sizes = {member.filename: member.file_size for member in content.infolist()}
                inside = _extract(sizes, content.extractall, archive, work, marker)  # leaves out parts such as '..'
        else:
            with tarfile.open(archive) as packed:
                sizes = {member.name: member.size for member in packed}
                inside = _extract(sizes, lambda to: packed.extractall(to, filter="data"), archive, work, marker)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive}: can't be unpacked ({error}); remove it and fetch it anew") from error
    if root.exists():
        root.rmdir()
    (work / inside).rename(root)
    shutil.rmtree(work, ignore_errors=True)


def _extract(
    sizes: Mapping[str, int], extract: Callable[[Path], Any], archive: Path, work: Path, marker: str
) -> PurePosixPath:
    """Unpack all members (name: bytes); return the folder among them that holds the marker."""
    parts = PurePosixPath(marker).parts
    paths = [PurePosixPath(name) for name in sizes]
    inside = next((p.parents[len(parts) - 1] for p in paths if p.parts[-len(parts) :] == parts), None)
    if inside is None:
        raise UserError(f"{archive}: holds no {marker}; it is not the data set")
    _need_space(work.parent, sum(sizes.values()))
    log.info("unpacking %d files", len(sizes))
    extract(work)
    return inside


def _need_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise UserError(f"{folder}: {free / 1e9:.0f} GB are free and {wanted / 1e9:.0f} GB are needed; free some")
