from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from ctfm import config, options

MODELS = [m for m in vars(options).values() if isinstance(m, type) and issubclass(m, BaseModel) and m is not BaseModel]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_every_setting_has_a_meaning_and_plug_ins_find_it_in_config(model):
    assert all(field.description for field in model.model_fields.values())
    assert model.model_config["extra"] == "forbid" and model.model_config["frozen"]
    assert getattr(config, model.__name__) is model


def test_an_unknown_key_and_a_change_are_refused():
    with pytest.raises(ValidationError, match="afine_p"):
        options.Augment(afine_p=0.5)
    with pytest.raises(ValidationError, match="frozen"):
        options.Augment().affine_p = 0.5
