"""Cases of a labelled set: splits, variety, repeatability."""

from __future__ import annotations

import numpy as np
import pytest

from ctfm.phantom import cases


@pytest.mark.parametrize("count", [3, 4, 6, 10, 16, 50])
def test_every_split_is_there(count):
    names = cases.splits(0, count)
    assert len(names) == count and set(names) == {"train", "val", "test"}
    assert names == cases.splits(0, count)
    if count >= 10:
        assert names.count("train") > count / 2 > names.count("test") >= names.count("val")


def test_cases_differ_in_person_and_size_and_repeat():
    first, again = list(cases.cases(3, 4, 8.0)), list(cases.cases(3, 4, 8.0))
    assert len({case.image.shape for case in first}) > 1
    assert len({case.body.seed for case in first}) == 4
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.image.array, b.image.array) and np.array_equal(a.label.array, b.label.array)
        assert a.split == b.split and a.image.spacing == pytest.approx((8, 8, 8))


def test_every_case_shows_the_liver(ids):
    assert all((case.label.array == ids["liver"]).any() for case in cases.cases(0, 6, 8.0))
