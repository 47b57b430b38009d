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


def test_a_section_given_in_part_keeps_the_rest_of_its_default():
    """The default of a field, which may be another one than the section's own."""
    given = options.Finetuning(augment={"noise_p": 0.7}).augment
    assert given == options.SEGMENTATION_AUGMENT.model_copy(update={"noise_p": 0.7})
    assert config.Pretrain(corpus="x", augment={"affine_p": 0}).augment.histogram_p == 0.5
    with pytest.raises(ValidationError, match="afine_p"):
        options.Finetuning(augment={"afine_p": 0.5})
    made = options.Finetuning(augment={"affine_p": 0.0})
    assert options.Finetuning.model_validate_json(made.model_dump_json()) == made
