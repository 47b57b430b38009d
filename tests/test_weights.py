from __future__ import annotations

import pytest
import torch

from ctfm import plugins, weights
from ctfm.errors import UserError
from ctfm.files import read_json, write_json
from ctfm.imaging.preprocess import Preprocess
from ctfm.training import seeds

OPTIONS = {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1]}


@pytest.fixture
def state():
    plugin = plugins.get("encoders", "segresnet")
    with seeds.seeded(0):
        return plugin.build(plugin.Settings(**OPTIONS)).state_dict()


@pytest.fixture
def folder(tmp_path, state):
    save(tmp_path / "encoder", state)
    return tmp_path / "encoder"


def save(folder, state, **changes):
    known = {"name": "mine", "kind": "segresnet", "options": OPTIONS, "state": state, "facts": {"step": 7}}
    weights.save_encoder(folder, **{**known, **changes})


def test_what_is_saved_is_loaded(folder, state):
    loaded = weights.load_encoder(folder)
    assert (loaded.kind, loaded.options, loaded.facts) == ("segresnet", OPTIONS, {"step": 7})
    assert loaded.preprocess == Preprocess() and not loaded.module.training
    assert all(torch.equal(value, state[key]) for key, value in loaded.module.state_dict().items())
    names = {"README.md", "config.json", "model.safetensors", "preprocessing.json"}
    assert {p.name for p in folder.iterdir()} == names


def test_the_same_state_gives_the_same_bytes_and_single_precision(folder, state, tmp_path):
    half = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    save(tmp_path / "other", half)
    assert (tmp_path / "other/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    tensors = weights.read_tensors(folder / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.int64}


def test_the_card_tells_the_preprocessing_and_how_to_load(tmp_path, state):
    shape = Preprocess(spacing_mm=(1.5, 1.5, 1.5), hu_window=(-500, 500), patch=(16, 64, 64))
    save(tmp_path, state, preprocess=shape, facts={"trained_on": "It saw 12 scans."})
    card = (tmp_path / "README.md").read_text()
    for text in ("1.5 x 1.5 x 1.5 mm", "-500 to 500 HU", "16 x 64 x 64", "SPL", "It saw 12 scans.", "icence"):
        assert text in card
    assert "load_encoder(" in card and "SegResEncoder.from_pretrained(" in card and "{" not in card
    assert weights.load_encoder(tmp_path).preprocess == shape


def test_weights_that_do_not_fit_are_listed(folder, state, tmp_path):
    wrong = dict(state)
    wrong["extra.weight"] = wrong.pop("conv_init.weight")
    wrong["layers.0.blocks.0.conv1.weight"] = torch.zeros(1)
    with pytest.raises(UserError) as told:
        weights.load_strict(weights.load_encoder(folder).module, wrong, "foreign")
    text, total = str(told.value), len(state)
    assert f"{total - 2} of {total} tensors match" in text
    assert "1 missing: conv_init.weight" in text and "1 unexpected: extra.weight" in text
    assert "layers.0.blocks.0.conv1.weight (1,) instead of (4, 4, 3, 3, 3)" in text
    with pytest.raises(UserError, match="encoder 'mine': the weights don't fit"):
        save(tmp_path / "never", wrong)
    assert not (tmp_path / "never/model.safetensors").exists()


def test_nothing_is_loaded_from_weights_that_do_not_fit(folder, state):
    module = weights.load_encoder(folder).module
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(UserError):
        weights.load_strict(module, {key: value + 1 for key, value in list(state.items())[:-1]}, "foreign")
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", ["preprocessing.json", "model.safetensors"])
def test_missing_and_damaged_files_are_named(folder, name):
    (folder / name).write_bytes(b"{nonsense")
    with pytest.raises(UserError, match=name):
        weights.load_encoder(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        weights.load_encoder(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("options", {"filters": 4}), ("preprocess", {"patch": 3}), ("kind", "no_such_kind")]
)
def test_a_malformed_description_is_told(folder, key, value):
    about = read_json(folder / "preprocessing.json")
    write_json({**about, key: value}, folder / "preprocessing.json")
    with pytest.raises(UserError):
        weights.load_encoder(folder)
    del about[key]
    write_json(about, folder / "preprocessing.json")
    with pytest.raises(UserError, match=r"preprocessing.json: malformed"):
        weights.load_encoder(folder)


def test_whoever_may_read_the_config_may_read_the_weights(folder):
    assert len({p.stat().st_mode for p in folder.iterdir()}) == 1


@pytest.fixture
def net():
    plugin = plugins.get("encoders", "segresnet")
    with seeds.seeded(0):
        return plugin.segmenter(plugin.Settings(**OPTIONS), 3).state_dict()


def save_net(folder, state, **changes):
    labels = [{"name": "liver", "id": 5}, {"name": "aorta", "id": 52}]
    known = {"name": "mine", "kind": "segresnet", "options": OPTIONS, "facts": {}, "preprocess": Preprocess()}
    weights.save_segmenter(folder, **{**known, "labels": labels, "state": state, **changes})


def test_a_net_is_saved_whole_or_not_at_all(tmp_path, net, state):
    save_net(tmp_path / "net", net)
    tensors = weights.read_tensors(tmp_path / "net/model.safetensors")
    assert all(torch.equal(value, tensors[key]) for key, value in net.items()) and len(tensors) == len(net)
    assert read_json(tmp_path / "net/config.json") == {
        **OPTIONS,
        **{"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "dsdepth": 4},
    }
    about, preprocess = weights.read_about(tmp_path / "net")
    assert [label["id"] for label in about["labels"]] == [5, 52] and preprocess == Preprocess()
    for tensors, wrong in ((state, {}), (net, {"labels": [{"name": "liver", "id": 5}]})):
        with pytest.raises(UserError, match="net 'mine': the weights don't fit"):
            save_net(tmp_path / "never", tensors, **wrong)
    assert not (tmp_path / "never").exists()


def test_numbers_of_another_kind_are_told(folder, state):
    counter = next(key for key, value in state.items() if not value.is_floating_point())
    with pytest.raises(UserError, match=rf"1 wrong type: {counter} torch.float32 instead of torch.int64"):
        weights.load_strict(weights.load_encoder(folder).module, {**state, counter: torch.tensor(1.0)}, "foreign")


def test_what_is_expected_has_no_values(state):
    wanted = weights.expected("segresnet", OPTIONS)
    assert list(wanted) == list(state) and all(value.is_meta for value in wanted.values())
    assert weights.differences(wanted, state) == {
        "missing": [],
        "unexpected": [],
        "wrong shape": [],
        "wrong type": [],
    }
