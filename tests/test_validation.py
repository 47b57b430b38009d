from __future__ import annotations

import pytest

from ctfm.config import Config, Embed
from ctfm.errors import UserError
from ctfm.validation import validated


def test_what_is_right_is_returned():
    assert validated(Embed, {"overlap": 0.5}, "embed.") == Embed(overlap=0.5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"embed": {"a": {"overlop": 0}}}, r"embed\.a\.overlop: unknown key; did you mean 'overlap'\?"),
        ({"embed": {"a": {"overlap": 1}}}, r"embed\.a\.overlap: Input should be less than 1 \(got 1\)"),
        ({"datasets": {"a": {"kind": "x"}}}, r"datasets\.a\.root: this key is required"),
        ({"evaluate": {"bootstrp": 1}}, r"evaluate\.bootstrp: unknown key; did you mean 'bootstrap'\?"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_place(content, words):
    with pytest.raises(UserError, match=words):
        validated(Config, content, "")


def test_all_faults_are_told_at_once_after_their_prefix():
    with pytest.raises(UserError, match=r"--options\.pool: .*; --options\.seed: unknown key"):
        validated(Embed, {"pool": "sum", "seed": 1}, "--options.")
