"""What is said of wrong settings; tests/test_spec.py has the whole configuration."""

from __future__ import annotations

import pytest

from ctfm.config import Config
from ctfm.errors import UserError
from ctfm.validation import validated


def test_every_wrong_key_is_told_with_its_place_and_the_nearest_right_one():
    content = {"pretrain": {"a": {"epoch": 3}}, "prepare": {"min_slices": 0}}
    with pytest.raises(UserError) as told:
        validated(Config, content, "x.")
    assert "x.pretrain.a.epoch: unknown key" in str(told.value) and "did you mean 'epochs'" in str(told.value)
    assert "x.pretrain.a.corpus: this key is required" in str(told.value)
    assert "x.prepare.min_slices: Input should be greater than or equal to 2 (got 0)" in str(told.value)


def test_right_settings_are_typed():
    assert validated(Config, {"seed": "4"}, "").seed == 4
