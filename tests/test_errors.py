"""Messages name the nearest known word."""

from __future__ import annotations

from ctfm.errors import Quarantine, nearest


def test_nearest_names_one_or_lists_all():
    assert nearest("epoch", ["epochs", "seed"]) == "; did you mean 'epochs'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
    assert nearest("x", []) == ""


def test_quarantine_keeps_code_and_detail():
    error = Quarantine("localizer", "ImageType says so")
    assert (error.code, error.detail, str(error)) == ("localizer", "ImageType says so", "localizer: ImageType says so")
