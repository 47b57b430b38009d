"""Atomic files and digests: a reader sees the old file or the whole new one, never half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctfm.errors import UserError

# What the machine has run out of. No input is to blame, and nothing that is made now can be trusted to be whole.
SHORTAGES = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed over ``path``, else removed.

    Raises:
        UserError: the folder can't be written, or its disk is full.
    """
    target = Path(path)
    ensure_folder(target.parent)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        with no_shortage(target.parent):
            yield temporary
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def no_shortage(folder: Path | str) -> Iterator[None]:
    """Turn the error of a full disk, or of another shortage, into one that says what to do.

    Raises:
        UserError: in place of an OSError of ``SHORTAGES``; it names ``folder``.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in SHORTAGES:
            raise
        why = os.strerror(error.errno)
        raise UserError(f"{folder}: {why}; free some, then start again: what is finished is kept") from error


def remove_temporaries(folder: Path | str) -> None:
    """Remove what ``atomic`` left in a folder when it was killed. No other process may be writing there."""
    for path in Path(folder).glob(".*.tmp*"):
        path.unlink()


def ensure_folder(folder: Path | str) -> Path:
    """Create ``folder`` and check that it can be written.

    Raises:
        UserError: it can't be created or written; the message names the folder.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't create this folder ({error.strerror}); choose another") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: this folder is not writable; choose another or change its permissions")
    return folder


def check_writable(folder: Path | str) -> None:
    """Check, without making it, that ``folder`` is or can be made a writable folder.

    Raises:
        UserError: it can't; the message names what stands in the way.
    """
    nearest = next(p for p in (Path(folder), *Path(folder).absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise UserError(f"{folder}: {nearest} is a file, not a folder; choose another output folder")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"{folder}: {nearest} is not writable; choose another output folder or its permissions")


def need_file(path: Path | str, remedy: str) -> Path:
    """Return ``path`` if it exists, else raise a UserError that says how to get it."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {remedy}")
    return path


def write_json(value: Any, path: Path | str) -> None:
    """Write ``value`` as sorted, indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    path = need_file(path, "make it with the stage before this one")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON (line {error.lineno}: {error.msg})") from error


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return a short digest (12 hexadecimal digits) of any JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
