"""Where the small frozen facts of the checkout are: queries, splits, exclusions, numbers of the paper."""

from __future__ import annotations

from pathlib import Path

from ctfm.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / "resources"


def path(*parts: str) -> Path:
    """Return a file or folder under ``resources/`` of the checkout, such as ``path("sql", "select_index.sql")``.

    Raises:
        UserError: the package does not run from a checkout, or the checkout lacks the file.
    """
    if not FOLDER.is_dir():
        raise UserError(
            f"{FOLDER}: no such folder; ctfm needs its checkout: clone the repository and 'pip install -e .' in it"
        )
    file = FOLDER.joinpath(*parts)
    if not file.exists():
        raise UserError(f"{file}: this file of the checkout is missing; restore it with 'git checkout'")
    return file
