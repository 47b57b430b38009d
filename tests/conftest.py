"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the top folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real scans beside the repository, or skip."""
    folder = Path(os.environ.get("CTFM_SHARED_DATA", SHARED))
    if not folder.is_dir():
        pytest.skip("the real scans are not beside this checkout (set CTFM_SHARED_DATA)")
    return folder
