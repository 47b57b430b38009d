"""Every setting is described, frozen and strict."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from ctfm import config

MODELS = [
    m
    for m in vars(config).values()
    if isinstance(m, type) and issubclass(m, BaseModel) and m.__module__ == config.__name__
]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_every_setting_has_a_meaning(model):
    assert all(field.description for field in model.model_fields.values())
    assert model.model_config["extra"] == "forbid" and model.model_config["frozen"]


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        config.Report().title = "x"


def test_every_stage_has_a_version():
    assert set(config.VERSIONS) >= {"select", "prepare", "datasets", "pretrain", "probe", "export", "adapt"}
    assert all(isinstance(v, int) and v >= 1 for v in config.VERSIONS.values())
