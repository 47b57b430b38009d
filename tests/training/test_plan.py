from __future__ import annotations

from ctfm.training.plan import Plan


def plan(tmp_path, **changes):
    known = {
        "steps": 10,
        "steps_per_epoch": 4,
        "folder": tmp_path,
        "fingerprint": "a",
        "checkpoint_every": 2,
        "validate": None,
        "validate_every": 1,
        "best": None,
        "accumulate": 1,
    }
    return Plan(**{**known, **changes})


def test_epochs_end_on_time_and_the_last_may_be_short(tmp_path):
    made = plan(tmp_path)
    assert made.epochs == 3
    assert [step for step in range(1, 11) if made.ends_epoch(step)] == [4, 8, 10]
    assert [made.due(epoch, 2) for epoch in range(3)] == [False, True, True]
    assert not any(made.due(epoch, None) for epoch in range(3))
