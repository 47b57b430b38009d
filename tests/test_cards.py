from __future__ import annotations

import re

import pytest
import yaml

from ctfm import cards, plugins
from ctfm.imaging.preprocess import Preprocess

LABELS = [{"name": "liver", "id": 5, "group": "organs"}, {"name": "aorta", "id": 52, "group": "cardiac"}]


def card(kind="segresnet", preprocess=None, **changes):
    plugin = plugins.get("encoders", kind)
    shape = preprocess or plugin.PREPROCESS
    known = {"name": "mine", "kind": kind, "preprocess": shape.model_dump(mode="json"), "facts": {}}
    return cards.card({**known, **changes}, plugin)


def test_it_tells_what_goes_in_and_what_it_was_trained_on():
    shape = Preprocess(spacing_mm=(1.5, 1, 1.25), hu_window=(-500, 500.5), patch=(16, 64, 32))
    text = card(preprocess=shape, facts={"trained_on": "It saw 12 scans."})
    for words in ("# mine", "It saw 12 scans.", "1.5 x 1 x 1.25 mm", "-500 to 500.5 HU", "16 x 64 x 32 voxels", "SPL"):
        assert words in text
    assert "What it can't do" in text and "no medical device" in text and "column `license`" in text


@pytest.mark.parametrize("kind", plugins.names("encoders"))
@pytest.mark.parametrize("labels", [[], LABELS])
def test_it_is_whole(kind, labels):
    text = card(kind, labels=labels)
    assert not re.search(r"{{|{%|None|\n\n\n|[ \t]\n", text) and text.endswith(".\n")
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "other" and ("segmentation" in head["tags"]) == bool(labels)
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        compile(code, "card", "exec")
        assert len(code.split("\n\n")) == 2 and len([line for line in code.splitlines() if line]) == 3


def test_only_what_lighter_zoo_knows_is_said_to_load_there():
    assert "SegResEncoder.from_pretrained(" in card() and "SegResNet.from_pretrained(" in card(labels=LABELS)
    theirs = card("suprem_unet")
    assert "lighter" not in theirs and "The weights saw RAS" in theirs and "-175 to 250 HU" in theirs
    assert "The weights saw" not in card()


def test_a_net_lists_its_outputs():
    text = card(labels=LABELS)
    assert "| 1 | liver | 5 |" in text and "| 2 | aorta | 52 |" in text and "ctfm predict" in text
    assert "divisible by 16" in text and "load_encoder" not in text


def test_the_licence_is_that_of_the_weights():
    assert "from `x.pth` (SHA-256 abc)" in card(facts={"source": "x.pth", "sha256": "abc"})
    assert "Random weights are nobody's" in card(facts={"random": True})


def test_what_was_only_assumed_is_said():
    assert "Check it." in card(facts={"assumed": True}) and "Check it." not in card()
