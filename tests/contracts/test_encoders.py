"""What every file in src/ctfm/encoders must do; a new one is tested by being there."""

from __future__ import annotations

import importlib
import importlib.util
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from pydantic import ValidationError
from torch.nn import functional

from ctfm import foreign, plugins, weights
from ctfm.encoders import Hub
from ctfm.imaging.preprocess import Preprocess
from ctfm.training import seeds
from tests.contracts.small import encoder_settings

NAMES = plugins.names("encoders")
LIGHTER = pytest.mark.skipif(
    importlib.util.find_spec("lighter_zoo") is None or importlib.util.find_spec("huggingface_hub") is None,
    reason="lighter-zoo and huggingface_hub are not installed",
)


def lighter_zoo():
    return importlib.import_module("lighter_zoo")


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


@pytest.mark.parametrize("name", NAMES)
def test_names_of_weights_elsewhere_are_told(name):
    plugin, settings = plugins.get("encoders", name), encoder_settings(name)
    assert all(prefix.endswith(".") for prefix in plugin.PREFIXES)
    assert plugin.HUB is None or isinstance(plugin.HUB, Hub)
    for classes in (None, 3):
        config = plugin.hub_config(settings, classes)
        assert json.loads(json.dumps(config)) == config
        assert plugin.encoder_keywords(config) == plugin.hub_config(settings)


def written(folder, name, classes=None) -> torch.nn.Module:
    """Write an encoder or a net whose running statistics are not the initial ones; return it in evaluation mode."""
    plugin, settings = plugins.get("encoders", name), encoder_settings(name)
    with seeds.seeded(0):
        module = plugin.build(settings) if classes is None else plugin.segmenter(settings, classes)
    module(image())
    about = {"name": "x", "kind": name, "options": settings.model_dump(mode="json"), "facts": {}}
    about |= {"state": module.state_dict(), "preprocess": plugin.PREPROCESS}
    if classes is None:
        weights.save_encoder(folder, **about)
    else:
        labels = [{"name": f"label {i}", "id": i} for i in range(1, classes)]
        weights.save_segmenter(folder, **about, labels=labels)
    return module.eval()


def outputs(module) -> list[torch.Tensor]:
    with torch.no_grad():
        maps = module(image())
    return maps if isinstance(maps, list) else [maps]


def same(first, second) -> bool:
    """Whether two modules have equal tensors by equal names, and equal outputs in one memory order."""
    tensors = [module.state_dict() for module in (first, second)]
    assert list(tensors[0]) == list(tensors[1])
    last = [outputs(module.to(memory_format=torch.channels_last_3d)) for module in (first, second)]
    pairs = [*zip(*(t.values() for t in tensors), strict=True), *zip(*last, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


@LIGHTER
@pytest.mark.parametrize("classes", [None, 3])
def test_lighter_zoo_loads_what_we_write(tmp_path, classes):
    hub = plugins.get("encoders", "segresnet").HUB
    ours = written(tmp_path, "segresnet", classes)
    theirs = getattr(lighter_zoo(), hub.segmenter if classes else hub.encoder).from_pretrained(tmp_path)
    assert not theirs.training
    for a, b in zip(outputs(theirs), outputs(ours), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert same(theirs, ours)


@LIGHTER
@pytest.mark.parametrize("classes", [None, 3])
def test_we_load_what_lighter_zoo_writes(tmp_path, classes):
    plugin, settings = plugins.get("encoders", "segresnet"), encoder_settings("segresnet")
    theirs = getattr(lighter_zoo(), plugin.HUB.segmenter if classes else plugin.HUB.encoder)(
        **plugin.hub_config(settings, classes)
    )
    theirs(image())
    theirs.save_pretrained(tmp_path)
    options, source = settings.model_dump(mode="json"), foreign.read(tmp_path)
    foreign.check_config(source, "segresnet", options)
    state, report = foreign.match(source, weights.expected("segresnet", options, classes), foreign.PLAIN[:1])
    assert not report["missing"] + report["unexpected"]
    ours = plugin.build(settings) if classes is None else plugin.segmenter(settings, classes)
    weights.load_strict(ours, state, "theirs")
    assert same(theirs.eval(), ours.eval())
    encoder, _ = foreign.match(source, weights.expected("segresnet", options), foreign.PLAIN)
    alone = built("segresnet", seed=1)
    weights.load_strict(alone, encoder, "their encoder")
    assert same(alone.eval(), theirs.encoder if classes else theirs)


@LIGHTER
def test_what_lighter_zoo_wrote_and_we_wrote_again_has_the_same_bytes(tmp_path):
    settings = encoder_settings("segresnet")
    theirs = lighter_zoo().SegResEncoder(**plugins.get("encoders", "segresnet").hub_config(settings))
    theirs.save_pretrained(tmp_path)
    about = {"name": "x", "kind": "segresnet", "options": settings.model_dump(mode="json"), "facts": {}}
    weights.save_encoder(tmp_path / "ours", **about, state=theirs.state_dict())
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_segresnet_is_ct_fms():
    plugin = plugins.get("encoders", "segresnet")
    with torch.device("meta"):
        ours, net = plugin.build(plugin.Settings()), plugin.segmenter(plugin.Settings(), 118)
        shape = {"spatial_dims": 3, "in_channels": 1, "init_filters": 32, "blocks_down": [1, 2, 2, 4, 4]}
        theirs, their_net = SegResEncoder(**shape), SegResNetDS(**shape, out_channels=118, dsdepth=4)
    for mine, other, numbers in ((ours, theirs, (77_760_992, 161)), (net, their_net, (87_220_344, 221))):
        assert (sum(p.numel() for p in mine.parameters()), len(mine.state_dict())) == numbers
        assert list(mine.state_dict()) == list(other.state_dict())
    assert sum(v.numel() * v.element_size() for v in ours.state_dict().values()) == 311_099_984
    assert ours.channels == [32, 64, 128, 256, 512] and plugin.multiple == 16
    # The published config.json has 123 bytes.
    assert len(json.dumps(plugin.hub_config(plugin.Settings()), sort_keys=True, indent=2)) == 123


def test_segresnet_computes_what_monai_does():
    settings = encoder_settings("segresnet")
    ours, theirs = built("segresnet"), SegResEncoder(**plugins.get("encoders", "segresnet").hub_config(settings))
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(ours(image()), theirs(image()), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def suprem() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return the U-Net with weights and statistics at random, and its tensors."""
    encoder = built("suprem_unet")
    generator = torch.Generator().manual_seed(0)
    for value in encoder.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return encoder.eval(), encoder.state_dict()


def by_hand(x: torch.Tensor, state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Compute the maps of the U-Net with functions alone, on axes (x, y, z) towards R, A, S."""
    maps = []
    for level in ("down_tr64", "down_tr128", "down_tr256", "down_tr512"):
        for block in (f"{level}.ops.0.", f"{level}.ops.1."):
            x = functional.conv3d(x, state[f"{block}conv1.weight"], state[f"{block}conv1.bias"], padding=1)
            statistics = [state[f"{block}bn1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
            x = functional.relu(functional.batch_norm(x, *statistics, training=False))
        maps.append(x)
        x = functional.max_pool3d(x, 2)
    return maps


def turned(array: torch.Tensor, start: str, end: str) -> torch.Tensor:
    """Turn the axes of (1, C, ...) from one orientation code to another, by nibabel."""
    how = nib.orientations.ornt_transform(*map(nib.orientations.axcodes2ornt, (start, end)))
    return torch.from_numpy(
        np.stack([nib.orientations.apply_orientation(channel, how).copy() for channel in array[0].numpy()])
    )[None]


def test_suprem_is_the_u_net_on_axes_towards_right_anterior_superior():
    encoder, state = suprem()
    x = torch.rand(1, 1, 16, 24, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = encoder(x)
        theirs = by_hand(turned(x, "SPL", "RAS"), state)
        alone = encoder(torch.cat([x, 1 - x]))
    for ours, other, batched in zip(maps, theirs, alone, strict=True):
        assert torch.allclose(ours, turned(other, "RAS", "SPL"), atol=1e-5)
        assert torch.allclose(ours, batched[:1], atol=1e-5)  # whatever else is in the batch


def test_of_suprems_106_tensors_56_are_the_encoders(tmp_path):
    plugin = plugins.get("encoders", "suprem_unet")
    encoder = weights.expected("suprem_unet", {})
    state = {f"module.backbone.{key}": torch.zeros(value.shape, dtype=value.dtype) for key, value in encoder.items()}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for name, width, skip in (("up_tr256", 512, 256), ("up_tr128", 256, 128), ("up_tr64", 128, 64)):
        shapes = {"up_conv.weight": (width, width, 2, 2, 2), "up_conv.bias": (width,)}
        for block, before in enumerate((width + skip, skip)):
            shapes[f"ops.{block}.conv1.weight"] = (skip, before, 3, 3, 3)
            shapes[f"ops.{block}.conv1.bias"] = (skip,)
            shapes |= {f"ops.{block}.bn1.{key}": () if key == norm[-1] else (skip,) for key in norm}
        state |= {f"module.backbone.{name}.{key}": torch.zeros(shape) for key, shape in shapes.items()}
    state["module.backbone.out_tr.final_conv.weight"] = torch.zeros(32, 64, 1, 1, 1)
    state["module.backbone.out_tr.final_conv.bias"] = torch.zeros(32)
    learned = [v for k, v in state.items() if not k.endswith(norm[2:])]
    assert round(sum(v.numel() for v in learned) / 1e6, 2) == 19.08  # as SuPreM's table of models says
    torch.save({"net": state, "optimizer": {}, "scheduler": {}, "epoch": 2100}, tmp_path / "suprem.pth")
    source = foreign.read(tmp_path / "suprem.pth")
    _, report = foreign.match(source, encoder, (*foreign.PLAIN, *plugin.PREFIXES))
    assert (len(report["matched"]), len(report["unexpected"]), len(source.tensors)) == (56, 50, 106)
    assert plugin.build(plugin.Settings()).channels == [64, 128, 256, 512]
    shape = plugin.PREPROCESS
    assert (shape.orientation, shape.spacing_mm, shape.hu_window) == ("RAS", (1.5, 1.5, 1.5), (-175, 250))
    assert shape.adapt_patch == (96, 128, 128)


def test_suprems_segresnet_is_monais_on_its_own_axes_and_reads_its_file(tmp_path):
    plugin = plugins.get("encoders", "suprem_segresnet")
    theirs = SegResNet(
        blocks_down=[1, 2, 2, 4], blocks_up=[1, 1, 1], init_filters=16, out_channels=32, dropout_prob=0.0
    )
    torch.save({"net": {f"module.{k}": v for k, v in theirs.state_dict().items()}, "epoch": 2100}, tmp_path / "s.pth")
    source = foreign.read(tmp_path / "s.pth")
    state, report = foreign.match(source, weights.expected("suprem_segresnet", {}), (*foreign.PLAIN, *plugin.PREFIXES))
    assert (len(report["matched"]), len(report["unexpected"]), len(source.tensors)) == (58, 25, 83)
    assert {name.split(".")[1] for name in report["unexpected"]} == {"up_layers", "up_samples", "conv_final"}
    net = plugin.segmenter(plugin.Settings(), 32).eval()
    weights.load_strict(net.encoder, state, "encoder")
    for part in ("up_samples", "up_layers", "conv_final"):
        getattr(net, part).load_state_dict(getattr(theirs, part).state_dict())
    x = torch.rand(1, 1, 8, 16, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs.eval()(turned(x, "SPL", "RAS"))
        _, maps = theirs.encode(turned(x, "SPL", "RAS"))
        assert torch.allclose(net(x), turned(wanted, "RAS", "SPL"), atol=1e-5)
        for ours, other in zip(net.encoder(x), maps, strict=True):
            assert torch.allclose(ours, turned(other, "RAS", "SPL"), atol=1e-5)
    assert net.encoder.channels == [16, 32, 64, 128] and plugin.PREPROCESS.hu_window == (-175, 250)
