from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ctfm.config import Probe
from ctfm.errors import UserError
from ctfm.selection import check_unseen, draw


def table(**splits):
    """Return usable cases: {split: patients}; the case of a patient is named after it and a number."""
    rows = [
        {"case": f"{patient}-{n}", "patient": patient, "split": split, "image": "i", "label": "l"}
        for split, patients in splits.items()
        for n, patient in enumerate(patients)
    ]
    return pd.DataFrame(rows).sort_values("case")


def probe(**settings):
    return Probe(**{"task": "t", "shots": 3, "validation": 2, "seeds": (0, 1), **settings})


GOOD = {"train": list("abcdefgh"), "val": list("uvw"), "test": list("xyz")}


def test_validation_cases_are_of_the_validation_split_first_and_training_ones_of_the_rest():
    drawn = draw(table(**GOOD), Path(), probe())
    assert len(drawn.validation) == 2 and {c.patient for c in drawn.validation} <= set("uvw")
    assert all(len(cases) == 3 and {c.patient for c in cases} <= set("abcdefgh") for cases in drawn.train.values())
    assert drawn.train[0] != drawn.train[1]
    more = draw(table(**GOOD), Path(), probe(validation=5))
    scored = {c.patient for c in more.validation}
    assert set("uvw") < scored and len(scored) == 5
    assert not any(c.patient in scored for cases in more.train.values() for c in cases)
    assert len(more.every) == len({c.case for c in more.every})
    assert more.named() == draw(table(**GOOD)[::-1].sort_values("case"), Path(), probe(validation=5)).named()


def test_another_scan_of_a_scoring_patient_is_not_learned_from():
    own = table(train=[*"ab", *"u" * 6], val=["u"], test=["x"])
    drawn = draw(own, Path(), probe(shots=2, validation=1))
    assert {c.patient for cases in drawn.train.values() for c in cases} == {"a", "b"}


def test_a_patient_of_the_test_split_is_refused_by_name():
    for leak in ("train", "val"):
        spoilt = GOOD | {"test": [GOOD[leak][0], "y"]}
        settings = probe(validation=3, shots=8)
        with pytest.raises(UserError, match=f"'{GOOD[leak][0]}' is in the test split and in the probe; mend"):
            draw(table(**spoilt), Path(), settings)


def test_a_patient_of_another_data_sets_test_split_is_refused_by_name():
    drawn = draw(table(**GOOD), Path(), probe(validation=3))
    assert check_unseen(drawn, table(train=list("uv"), test=list("xq")), "other") == 2
    with pytest.raises(UserError, match="'w' is in the test split and in the probe, of the data set 'other'"):
        check_unseen(drawn, table(test=list("qw")), "other")


def test_too_few_cases_are_told():
    with pytest.raises(UserError, match="9 cases are asked for and there are 8"):
        draw(table(**GOOD), Path(), probe(shots=9))
    with pytest.raises(UserError, match="cases are asked for"):
        draw(table(**GOOD), Path(), probe(validation=12))
