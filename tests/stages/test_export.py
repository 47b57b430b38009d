from __future__ import annotations

import json

import pytest
import torch

from ctfm import spec, weights
from ctfm.errors import UserError
from ctfm.files import read_json, write_json
from ctfm.stages import export as stage
from ctfm.stages.pretrain import pretrain
from ctfm.training import checkpoints
from tests.stages import test_pretrain
from tests.training import corpora

OPTIONS = test_pretrain.ENTRY["encoder_options"]


def job(name="random", **encoder) -> str:
    cfg = spec.check(
        {
            "corpora": {"c": {}},
            "pretrain": {"mine": test_pretrain.ENTRY},
            "encoders": {"random": {"options": OPTIONS, **encoder}},
        }
    )
    return json.dumps(spec.spec(cfg, "export", encoder=name))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    index = corpora.write(folder / "volumes", spacing=(2.0, 1.5, 1.5))
    pretrain(test_pretrain.job(), volumes=index, out=folder / "encoder")
    return folder / "encoder"


def held(path):
    return checkpoints.encoder(checkpoints.read(path))


def test_the_last_checkpoint_is_exported_by_default(pretrained, tmp_path):
    stage.export(job("mine"), pretrained=pretrained, out=tmp_path)
    loaded, state = weights.load_encoder(tmp_path), held(pretrained / "checkpoints/last.ckpt")
    assert all(torch.equal(value, state[key]) for key, value in loaded.module.state_dict().items())
    assert loaded.preprocess.spacing_mm == (2.0, 1.5, 1.5) and loaded.preprocess.patch == (16, 32, 32)
    assert (loaded.facts["checkpoint"], loaded.facts["step"]) == ("last.ckpt", 6)
    assert loaded.facts["fingerprint"] == read_json(pretrained / "run.json")["fingerprint"]
    card = (tmp_path / "README.md").read_text()
    assert "# mine" in card and "2 x 1.5 x 1.5 mm" in card and "3 CT series, 12 scan visits, 6 steps" in card
    assert str(pretrained) not in card + (tmp_path / "preprocessing.json").read_text()


def test_the_selected_checkpoint_is_exported(pretrained, tmp_path):
    choice = {"checkpoint": "epoch=0001.ckpt", "epoch": 1, "metric": "macro_dice", "value": 0.5, "why": "best"}
    write_json(choice, tmp_path / "selected.json")
    stage.export(job("mine"), pretrained=pretrained, selected=tmp_path / "selected.json", out=tmp_path / "out")
    loaded, state = weights.load_encoder(tmp_path / "out"), held(pretrained / "checkpoints/epoch=0001.ckpt")
    assert all(torch.equal(value, state[key]) for key, value in loaded.module.state_dict().items())
    assert loaded.facts["chosen"] == choice and loaded.facts["step"] == 4


def test_what_is_missing_or_does_not_fit_is_told(pretrained, tmp_path):
    write_json({"checkpoint": "epoch=0777.ckpt"}, tmp_path / "selected.json")
    with pytest.raises(UserError, match=r"epoch=0777.ckpt: no such file"):
        stage.export(job("mine"), pretrained=pretrained, selected=tmp_path / "selected.json", out=tmp_path / "out")
    other = json.loads(job("mine"))
    other["encoder"]["options"]["init_filters"] = 8
    with pytest.raises(UserError, match="wrong shape"):
        stage.export(json.dumps(other), pretrained=pretrained, out=tmp_path / "out")
    with pytest.raises(UserError, match=r"last\.ckpt: no such file"):
        stage.export(job("mine"), pretrained=tmp_path / "nowhere", out=tmp_path / "out")


def test_random_weights_depend_on_the_seed_alone(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        stage.import_weights(job(seed=seed), out=tmp_path / name)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert weights.load_encoder(tmp_path / "c").facts["seed"] == 1
    assert "random" in (tmp_path / "a/README.md").read_text()


def test_weights_come_from_a_folder_of_ours(pretrained, tmp_path):
    stage.export(job("mine"), pretrained=pretrained, out=tmp_path / "ours")
    stage.import_weights(job(weights=str(tmp_path / "ours")), out=tmp_path / "copy")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    copy = weights.load_encoder(tmp_path / "copy")
    assert copy.preprocess.spacing_mm == (2.0, 1.5, 1.5) and copy.facts["source"] == "ours" and copy.facts["step"] == 6


def test_weights_come_from_a_folder_of_lighter_zoo(tmp_path):
    stage.import_weights(job(), out=tmp_path / "theirs")
    for name in ("preprocessing.json", "README.md"):
        (tmp_path / "theirs" / name).unlink()
    stage.import_weights(job(weights=str(tmp_path / "theirs")), out=tmp_path / "copy")
    assert (tmp_path / "copy/model.safetensors").read_bytes() == (tmp_path / "theirs/model.safetensors").read_bytes()
    assert weights.load_encoder(tmp_path / "copy").preprocess.spacing_mm == (3.0, 1.0, 1.0)


def test_other_formats_and_other_networks_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        stage.import_weights(job(weights=str(tmp_path / "nowhere")), out=tmp_path / "out")
    (tmp_path / "model.pt").write_bytes(b"pickled")
    with pytest.raises(UserError, match=r"model\.pt: unknown format of weights; supported: a folder with config.json"):
        stage.import_weights(job(weights=str(tmp_path / "model.pt")), out=tmp_path / "out")
    stage.import_weights(job(), out=tmp_path / "theirs")
    config = read_json(tmp_path / "theirs/config.json")
    for change in ({"norm": "instance"}, {"init_filters": 16}):
        write_json({**config, **change}, tmp_path / "theirs/config.json")
        with pytest.raises(UserError, match=f"another network than the encoder's options: {next(iter(change))}"):
            stage.import_weights(job(weights=str(tmp_path / "theirs")), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_tensors_are_listed(tmp_path):
    from safetensors.torch import save_file

    stage.import_weights(job(), out=tmp_path / "theirs")
    state = weights.read_tensors(tmp_path / "theirs/model.safetensors")
    state["head.weight"] = state.pop("conv_init.weight")
    save_file(state, tmp_path / "theirs/model.safetensors")
    with pytest.raises(UserError, match=r"64 of 65 tensors match; 1 missing: conv_init.weight;"):
        stage.import_weights(job(weights=str(tmp_path / "theirs")), out=tmp_path / "out")
