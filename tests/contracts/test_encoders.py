"""What every file in src/ctfm/encoders must do; a new one is tested by being there."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from pydantic import ValidationError

from ctfm import plugins, weights
from ctfm.imaging.preprocess import Preprocess
from ctfm.training import seeds
from tests.contracts.small import encoder_settings

NAMES = plugins.names("encoders")
LIGHTER = pytest.mark.skipif(
    importlib.util.find_spec("lighter_zoo") is None or importlib.util.find_spec("huggingface_hub") is None,
    reason="lighter-zoo and huggingface_hub are not installed",
)


def built(name, seed=0):
    with seeds.seeded(seed, "weights"):
        return plugins.get("encoders", name).build(encoder_settings(name))


def image(size=32, batch=2) -> torch.Tensor:
    return torch.rand(batch, 1, 16, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_defaults_go_through_json_and_refuse_unknown_keys(name):
    settings = plugins.get("encoders", name).Settings
    assert settings.model_validate_json(settings().model_dump_json()) == settings()
    assert plugins.settings("encoders", name)().model_dump() == settings().model_dump()
    assert all(field.description for field in settings.model_fields.values())
    with pytest.raises(ValidationError):
        settings(no_such_key=1)


@pytest.mark.parametrize("name", NAMES)
def test_maps_run_from_fine_to_coarse_with_the_channels_told(name):
    encoder = built(name).eval()
    with torch.no_grad():
        maps = encoder(image())
    assert isinstance(encoder.channels, list) and [m.shape[1] for m in maps] == encoder.channels
    edges = [m.shape[-1] for m in maps]
    assert edges == sorted(edges, reverse=True) and all(m.isfinite().all() for m in maps)
    assert isinstance(plugins.get("encoders", name).PREPROCESS, Preprocess)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_weights(name):
    first, again, other = (built(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_the_segmenter_holds_the_encoder_and_learns(name):
    plugin = plugins.get("encoders", name)
    with seeds.seeded(0):
        net = plugin.segmenter(encoder_settings(name), 3)
    state = built(name).state_dict()
    assert {k: v.shape for k, v in net.encoder.state_dict().items()} == {k: v.shape for k, v in state.items()}
    weights.load_strict(net.encoder, state, "encoder")
    x = image(4 * plugin.multiple if plugin.multiple < 16 else 2 * plugin.multiple)
    x[:, :, :, : x.shape[3] // 2] += 1
    target = (x[:, 0] > 1).long()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        heads = net.train()(x)
        heads = heads if isinstance(heads, list) else [heads]
        loss = sum(
            torch.nn.functional.cross_entropy(h, target[:, :: 2**i, :: 2**i, :: 2**i]) for i, h in enumerate(heads)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        assert net.eval()(x).shape == (2, 3, *x.shape[2:])


@pytest.mark.parametrize("name", NAMES)
def test_the_hub_configuration_is_plain_keywords(name):
    config = plugins.get("encoders", name).hub_config(encoder_settings(name))
    assert json.loads(json.dumps(config)) == config


@LIGHTER
def test_lighter_zoo_loads_what_we_write(tmp_path):
    from lighter_zoo import SegResEncoder as Theirs

    encoder = built("segresnet")
    encoder(image())  # running statistics that are not the initial ones
    options = encoder_settings("segresnet").model_dump(mode="json")
    weights.save_encoder(tmp_path, name="x", kind="segresnet", options=options, state=encoder.state_dict(), facts={})
    theirs, ours = Theirs.from_pretrained(tmp_path), weights.load_encoder(tmp_path).module
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True))
    with torch.no_grad():
        for a, b in zip(theirs(image()), ours(image()), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        same_order = theirs.to(memory_format=torch.channels_last_3d)
        assert all(torch.equal(a, b) for a, b in zip(same_order(image()), ours(image()), strict=True))


@LIGHTER
def test_we_load_what_lighter_zoo_writes(tmp_path):
    from lighter_zoo import SegResEncoder as Theirs

    plugin, settings = plugins.get("encoders", "segresnet"), encoder_settings("segresnet")
    theirs = Theirs(**plugin.hub_config(settings))
    theirs.save_pretrained(tmp_path)
    ours = plugin.build(settings)
    weights.load_strict(ours, weights.read_tensors(tmp_path / "model.safetensors"), "theirs")
    assert all(torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True))
    weights.save_encoder(
        tmp_path / "ours",
        name="x",
        kind="segresnet",
        options=settings.model_dump(mode="json"),
        state=theirs.state_dict(),
        facts={},
    )
    assert (tmp_path / "ours/config.json").read_bytes() == (tmp_path / "config.json").read_bytes()
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_segresnet_is_ct_fms():
    plugin = plugins.get("encoders", "segresnet")
    with torch.device("meta"):
        ours, net = plugin.build(plugin.Settings()), plugin.segmenter(plugin.Settings(), 118)
        shape = {"spatial_dims": 3, "in_channels": 1, "init_filters": 32, "blocks_down": [1, 2, 2, 4, 4]}
        theirs, their_net = SegResEncoder(**shape), SegResNetDS(**shape, out_channels=118, dsdepth=4)
    for mine, other, numbers in ((ours, theirs, (77_760_992, 161)), (net, their_net, (87_220_344, 221))):
        assert (sum(p.numel() for p in mine.parameters()), len(mine.state_dict())) == numbers
        assert list(mine.state_dict()) == list(other.state_dict())
    assert ours.channels == [32, 64, 128, 256, 512] and plugin.multiple == 16
    # The published config.json has 123 bytes.
    assert len(json.dumps(plugin.hub_config(plugin.Settings()), sort_keys=True, indent=2)) == 123


def test_segresnet_computes_what_monai_does():
    settings = encoder_settings("segresnet")
    ours, theirs = built("segresnet"), SegResEncoder(**plugins.get("encoders", "segresnet").hub_config(settings))
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(ours(image()), theirs(image()), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
