"""Messages name the nearest known word."""

from __future__ import annotations

import pytest

from ctfm.errors import SCAN_FAULTS, Quarantine, nearest, told


def test_nearest_names_one_or_lists_all():
    assert nearest("epoch", ["epochs", "seed"]) == "; did you mean 'epochs'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
    assert nearest("x", []) == ""


def test_quarantine_keeps_code_and_detail():
    error = Quarantine("localizer", "ImageType says so")
    assert (error.code, error.detail, str(error)) == ("localizer", "ImageType says so", "localizer: ImageType says so")


@pytest.mark.parametrize(
    ("fault", "row"),
    [
        (Quarantine("localizer", "ImageType says so"), {"reason": "localizer", "detail": "ImageType says so"}),
        (ValueError("no voxels"), {"reason": "error", "detail": "ValueError: no voxels"}),
    ],
)
def test_what_made_a_scan_unusable_is_told(fault, row):
    assert isinstance(fault, SCAN_FAULTS) and told(fault) == row
