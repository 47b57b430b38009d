"""Where the small frozen facts are: queries, splits, exclusions, numbers of the paper."""

from __future__ import annotations

from pathlib import Path

from ctfm.errors import UserError

# A wheel carries them inside of the package; a checkout has them in its root, where people look for them.
_PACKAGED = Path(__file__).parent / "_resources"
FOLDER = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "resources"


def path(*parts: str) -> Path:
    """Return a file or folder under ``resources/``, such as ``path("sql", "select_index.sql")``.

    Raises:
        UserError: the installation lacks the folder or the file.
    """
    if not FOLDER.is_dir():
        raise UserError(f"{FOLDER}: no such folder; install ctfm from a wheel, or 'pip install -e .' in a checkout")
    file = FOLDER.joinpath(*parts)
    if not file.exists():
        raise UserError(f"{file}: this file is missing; restore it with 'git checkout', or install ctfm anew")
    return file
