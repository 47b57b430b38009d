"""Phantoms and a random encoder for those who have nothing at hand."""

from __future__ import annotations

import numpy as np

from ctfm.app import demo
from ctfm.imaging import store


def test_phantoms_have_names_of_organs_and_are_the_same_every_time(phantoms, tmp_path):
    assert len(phantoms) == 2 and len({source.name for source in phantoms}) == 2
    label = store.open_volume(phantoms[0].label).load()
    named = {phantoms[0].ids[int(number)] for number in np.unique(label.array) if number}
    assert {"liver", "spleen"} <= named
    again = demo.scans(tmp_path, count=1, spacing_mm=6.0)[0]
    assert np.array_equal(store.open_volume(again.label).load().array, label.array)


def test_the_encoder_says_that_it_is_random(encoder):
    assert encoder.loaded.facts["random"] and "random" in encoder.loaded.facts["trained_on"]
