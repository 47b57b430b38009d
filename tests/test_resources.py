"""Finding the frozen facts of the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctfm import resources
from ctfm.errors import UserError


def test_finds_files_of_the_checkout(root: Path) -> None:
    assert resources.path("sql", "select_index.sql") == root / "resources/sql/select_index.sql"


def test_missing_file_or_folder_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nothing\.csv: this file is missing; restore it"):
        resources.path("nothing.csv")
    monkeypatch.setattr(resources, "FOLDER", tmp_path / "resources")
    with pytest.raises(UserError, match=r"no such folder; install ctfm.*pip install -e"):
        resources.path("sql", "select_index.sql")
