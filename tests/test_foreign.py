from __future__ import annotations

import pathlib

import pytest
import torch
from safetensors.torch import save_file

from ctfm import foreign, plugins, weights
from ctfm.errors import UserError
from ctfm.files import sha256, write_json
from ctfm.imaging.preprocess import Preprocess
from ctfm.training import seeds

OPTIONS = {"init_filters": 2, "blocks_down": [1, 1, 1, 1, 1]}
PLUGIN = plugins.get("encoders", "segresnet")
PREFIXES = (*foreign.PLAIN, *PLUGIN.PREFIXES)


@pytest.fixture(scope="module")
def wanted():
    return weights.expected("segresnet", OPTIONS)


def built(classes=None, seed=0, **options):
    settings = PLUGIN.Settings(**{**OPTIONS, **options})
    with seeds.seeded(seed):
        module = PLUGIN.build(settings) if classes is None else PLUGIN.segmenter(settings, classes)
    return module.state_dict()


@pytest.fixture(scope="module")
def state():
    return built()


def saved(path, content):
    torch.save(content, path)
    return path


def match(path, wanted):
    return foreign.match(foreign.read(path), wanted, PREFIXES)


def named(prefix, state):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_each_prefix_gives_the_encoder_and_the_rest_is_listed(prefix, state, wanted, tmp_path):
    rest = {"projection_head.0.weight": torch.ones(3), "num_batches_tracked": torch.tensor(3)}
    path = saved(tmp_path / "run.ckpt", {"state_dict": {**named(prefix, state), **rest}, "epoch": 449})
    found, report = match(path, wanted)
    assert list(found) == list(wanted) and all(torch.equal(found[key], state[key]) for key in wanted)
    assert report == {
        "source": "run.ckpt",
        "layout": "checkpoint of Lightning",
        "sha256": sha256(path),
        "prefix": prefix,
        "matched": [prefix + key for key in wanted],
        "missing": [],
        "unexpected": list(rest),
    }


def test_every_layout_gives_the_same(state, wanted, tmp_path):
    net = named("encoder.", state) | {"up_layers.3.head.bias": torch.zeros(2)}
    (tmp_path / "folder").mkdir()
    write_json({}, tmp_path / "folder/config.json")
    for file in (tmp_path / "folder/model.safetensors", tmp_path / "a.safetensors"):
        save_file({key: value.contiguous() for key, value in net.items()}, file)
    legacy = tmp_path / "old.pt"
    torch.save(net, legacy, _use_new_zipfile_serialization=False)
    sources = [
        tmp_path / "folder",
        tmp_path / "a.safetensors",
        legacy,
        saved(tmp_path / "flat.torch", net),
        saved(tmp_path / "suprem.pth", {"net": net, "optimizer": {"lr": 1e-3}, "scheduler": {}, "epoch": 1}),
    ]
    reports = [match(path, wanted) for path in sources]
    assert [r["source"] for _, r in reports] == ["folder", "a.safetensors", "old.pt", "flat.torch", "suprem.pth"]
    assert len({r["layout"] for _, r in reports}) == 4
    for found, report in reports:
        assert all(torch.equal(found[key], state[key]) for key in wanted)
        assert report["unexpected"] == ["up_layers.3.head.bias"]


FAULTS = {
    "dropped": lambda key, value: {},
    "renamed at its end": lambda key, value: {f"{key}_": value},
    "renamed at its start": lambda key, value: {f"x{key}": value},
    "behind another prefix": lambda key, value: {key.removeprefix("model.backbone."): value},
    "the prefix twice": lambda key, value: {f"model.backbone.{key}": value},
    "the prefix inside": lambda key, value: {f"x.{key}": value},
    "reshaped": lambda key, value: {key: value[None]},
    "cut": lambda key, value: {key: value.flatten()[:-1]},
    "of another type": lambda key, value: {key: value.int() if value.is_floating_point() else value.float()},
    "not finite": lambda key, value: {key: value * float("nan")},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_wrong_tensor_of_any_name_is_an_error_that_names_it(fault, state, wanted, tmp_path):
    good = named("model.backbone.", state)
    for key in wanted:
        full = f"model.backbone.{key}"
        changed = {**{k: v for k, v in good.items() if k != full}, **FAULTS[fault](full, good[full])}
        source = foreign.Source(saved(tmp_path / "x", 0), "test", changed)
        with pytest.raises(UserError) as told:
            foreign.match(source, wanted, PREFIXES)
        assert key in str(told.value), (fault, key)


def test_tensors_under_each_others_names_are_told_by_their_shapes(state, wanted, tmp_path):
    first, second = "conv_init.weight", "layers.0.blocks.0.conv1.weight"
    swapped = {**state, first: state[second], second: state[first]}
    with pytest.raises(UserError, match=r"63 of 65 tensors match; 2 wrong shape: conv_init.weight .*, layers.0"):
        match(saved(tmp_path / "x.pt", swapped), wanted)


def test_a_deeper_encoder_is_not_taken_for_a_shallow_one(wanted, tmp_path):
    deeper = built(blocks_down=(1, 2, 1, 1, 1))
    with pytest.raises(UserError, match=r"65 of 65 tensors match; 12 unexpected: layers.1.blocks.1"):
        match(saved(tmp_path / "x.pt", deeper), wanted)


def test_a_file_of_two_encoders_is_not_guessed_at(state, wanted, tmp_path):
    both = named("model.backbone.", state) | named("encoder.", built(seed=1))
    with pytest.raises(UserError, match=r"65 behind another prefix"):
        match(saved(tmp_path / "x.pt", both), wanted)


def test_a_file_without_the_encoder_shows_both_sides(wanted, tmp_path):
    other = {"backbone_model.conv_init.weight": torch.ones(1)}
    with pytest.raises(UserError) as told:
        match(saved(tmp_path / "x.pt", other), wanted)
    for words in ("none of its 1 tensors", "'model.backbone.'", "it has backbone_model.conv_init", "has conv_init.w"):
        assert words in str(told.value)


class Evil:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("touched"),)


def test_objects_are_never_unpickled(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "x.ckpt", {"state_dict": state, "hyper_parameters": Evil()})
    with pytest.raises(UserError, match=r"x.ckpt: holds Python objects \(.*\) besides tensors.*save its tensors alone"):
        foreign.read(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"model": {"a": torch.ones(1)}, "epoch": 3}, "no state dict: model, epoch is no tensor"),
        ([torch.ones(1)], "holds a list"),
        ({"state_dict": {"a": 1}}, "no state dict: a is no tensor"),
    ],
)
def test_other_contents_are_told(content, told, tmp_path):
    with pytest.raises(UserError, match=told):
        foreign.read(saved(tmp_path / "x.pt", content))


@pytest.mark.parametrize("damage", [b"pickled", b"", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_files_are_told(damage, suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(damage)
    with pytest.raises(UserError, match=rf"x\.{suffix}: .*(unknown format of weights|not a readable safetensors)"):
        foreign.read(path)


def test_a_truncated_file_is_told(state, tmp_path):
    path = saved(tmp_path / "x.pt", state)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"x\.pt: damaged"):
        foreign.read(path)


def test_folders_need_both_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        foreign.read(tmp_path / "nowhere")
    write_json({}, tmp_path / "config.json")
    with pytest.raises(UserError, match=r"unknown format of weights; supported: a folder with config.json and model"):
        foreign.read(tmp_path)


NET = {"spatial_dims": 3, "in_channels": 1, **OPTIONS}


@pytest.mark.parametrize(
    "same",
    [
        NET,
        OPTIONS,
        {**NET, "out_channels": 118, "dsdepth": 4, "blocks_up": None, "upsample_mode": "deconv"},
        {**NET, "norm": "batch", "act": "relu", "resolution": None},
    ],
)
def test_configs_of_the_same_encoder_are_taken(same, tmp_path):
    foreign.check_config(foreign.Source(tmp_path / "x", "test", {}, same), "segresnet", OPTIONS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"norm": "instance"}, "norm is instance instead of None"),
        ({"init_filters": 3}, "init_filters is 3 instead of 2"),
        ({"act": "leakyrelu"}, "act is leakyrelu"),
        ({"resolution": [3, 1, 1]}, "resolution is"),
        ({"args": []}, "args is"),
    ],
)
def test_configs_of_other_encoders_are_refused(change, told, tmp_path):
    source = foreign.Source(tmp_path / "x", "test", {}, {**NET, **change})
    with pytest.raises(UserError, match=f"another network than the encoder's options: {told}"):
        foreign.check_config(source, "segresnet", OPTIONS)


def test_the_preprocessing_beside_the_weights_is_taken(tmp_path, state):
    shape = Preprocess(spacing_mm=(2, 2, 2))
    facts = {"trained_on": "It saw much."}
    weights.save_encoder(
        tmp_path, name="x", kind="segresnet", options=OPTIONS, state=state, facts=facts, preprocess=shape
    )
    preprocess, facts = foreign.origin(foreign.read(tmp_path), Preprocess())
    assert preprocess == shape and facts["trained_on"] == "It saw much." and facts["source"] == tmp_path.name
    preprocess, facts = foreign.origin(foreign.read(tmp_path / "model.safetensors"), Preprocess())
    assert preprocess == Preprocess() and "elsewhere" in facts["trained_on"] and facts["assumed"]


def test_the_summary_is_one_line(state, wanted, tmp_path):
    rest = {"up.0.w": torch.ones(1), "up.0.b": torch.ones(1), "head.w": torch.ones(1)}
    for start in ("", "model."):
        path = saved(tmp_path / "net.pt", named(f"{start}encoder.", state) | named(start, rest))
        text = foreign.summary(match(path, wanted)[1])
        assert text == (
            f"net.pt (state dict), prefix '{start}encoder.': 65 matched, 0 missing, 3 unexpected: up (2), head (1)"
        )
    text = foreign.summary(match(saved(tmp_path / "net.pt", state), wanted)[1])
    assert text == "net.pt (state dict), prefix '': 65 matched, 0 missing, 0 unexpected"
