"""Keeping an encoder's maps changes nothing but the time: bit for bit on a CPU."""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter

import pytest
import torch

from ctfm import plugins, weights
from ctfm.errors import UserError
from ctfm.tasks import segment
from ctfm.training import seeds
from ctfm.training.pool import Pool, _shelves, answering
from tests.contracts import small
from tests.makers import random_encoder, stored_cases

OPTIONS = {"patch": (16, 32, 32), "epochs": 4, "batch": 2, "overlap": 0.25, "learning_rate": 1e-2, "warmup_epochs": 1}
MACHINE = {"loader_workers": 0, "tensorboard": False}


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    def choose(**values):
        monkeypatch.setenv("CTFM_MACHINE", json.dumps({**MACHINE, **values}))

    choose()
    return choose


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return stored_cases(tmp_path_factory.mktemp("cases"), 4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return random_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def calls(monkeypatch):
    """Count the crops that encoders see in training."""
    seen, plugin = Counter(), plugins.get("encoders", "segresnet")
    make = plugin.segmenter

    def counted(*args):
        net = make(*args)
        # it is shown images when it must work, and classes when it has its answer
        work = lambda shown: len(shown) * (net.training and shown.is_floating_point())  # noqa: E731
        net.encoder.register_forward_hook(lambda _, shown, __: seen.update(crops=work(shown[0])))
        return net

    monkeypatch.setattr(plugin, "segmenter", counted)
    return seen


def fit(cases, encoder, out, pool, seed=0, **options):
    settings = segment.Settings(**{**OPTIONS, **options})
    facts = segment.fit(settings, encoder, cases, [], out, seed=seed, frozen=pool)
    segment.predict(out / "model", cases, out / "predictions")
    scores = segment.scores(segment.measure(settings, cases, out / "predictions"))
    shutil.rmtree(out / "checkpoints")
    return facts, scores, weights.read_tensors(out / "model/model.safetensors")


@pytest.mark.parametrize("batch", [{"batch": 2}, {"batch": 3}, {"batch": 4, "micro_batch": 2}])
def test_decoders_and_scores_equal_those_of_maps_computed_in_every_step(cases, encoder, tmp_path, machine, batch):
    results = {}
    micro = {"micro_batch": batch.get("micro_batch")}
    for name, chosen in {"kept": {}, "mapped": {"cache_gigabytes": 0}, "anew": {"cache_features": False}}.items():
        machine(**micro, **chosen)
        pool = Pool(2, tmp_path / "work")
        results[name] = fit(cases[:3], encoder, tmp_path / name, pool, batch=batch["batch"])
    _, scores, tensors = results["anew"]
    assert scores["macro_dice"] > 0
    for name in ("kept", "mapped"):
        assert results[name][1] == scores
        assert all(torch.equal(results[name][2][key], value) for key, value in tensors.items())
    assert not list((tmp_path / "work").iterdir())  # a mapped file has no name and leaves nothing


def test_the_encoder_stays_as_it_was_with_its_statistics(cases, encoder, tmp_path):
    before = weights.load_encoder(encoder).module.state_dict()
    facts, _, after = fit(cases[:3], encoder, tmp_path / "a", Pool(2, tmp_path))
    assert facts["frozen"] and any("running_mean" in key for key in before)
    assert all(torch.equal(value, after[f"encoder.{key}"]) for key, value in before.items())


def test_the_encoder_sees_each_crop_once_and_other_seeds_share_them(cases, encoder, tmp_path, calls):
    pool = Pool(3, tmp_path)
    first = fit(cases[:2], encoder, tmp_path / "a", pool)
    assert calls["crops"] == 2 * 3  # and not the 4 epochs of a step of 2
    second = fit(cases[:2], encoder, tmp_path / "b", pool, seed=1)
    assert calls["crops"] == 6
    assert not torch.equal(
        first[2]["up_layers.0.blocks.0.conv1.weight"], second[2]["up_layers.0.blocks.0.conv1.weight"]
    )
    third = fit(cases[1:3], encoder, tmp_path / "c", pool, seed=1)  # one case is new; its third crop fills a batch
    assert calls["crops"] == 6 + 4
    alone = fit(cases[1:3], encoder, tmp_path / "d", Pool(3, tmp_path), seed=1)
    assert all(torch.equal(alone[2][key], value) for key, value in third[2].items())


def test_maps_of_another_encoder_or_recipe_are_not_used(cases, encoder, tmp_path):
    pool = Pool(2, tmp_path)
    fit(cases[:2], encoder, tmp_path / "a", pool)
    other = random_encoder(tmp_path / "other", seed=7)
    for name, chosen in {"encoder": {}, "recipe": {"augment": {"affine_p": 1.0, "resized_crop": (1, 1)}}}.items():
        used = fit(cases[:2], other, tmp_path / f"{name}1", pool, **chosen)
        fresh = fit(cases[:2], other, tmp_path / f"{name}2", Pool(2, tmp_path), **chosen)
        assert all(torch.equal(fresh[2][key], value) for key, value in used[2].items())


def test_more_crops_are_other_views(cases, encoder, tmp_path):
    one, two = (fit(cases[:2], encoder, tmp_path / f"{n}", Pool(n, tmp_path)) for n in (1, 2))
    assert one[0]["fingerprint"] != two[0]["fingerprint"]
    assert any(not torch.equal(one[2][key], two[2][key]) for key in one[2])


@pytest.mark.parametrize("name", plugins.names("encoders"))
def test_every_segmenter_reaches_its_encoder_through_one_call(name):
    plugin = plugins.get("encoders", name)
    with seeds.seeded(0):
        net = plugin.segmenter(small.encoder_settings(name), 3).train()
        net.encoder.eval()
        images = torch.rand(2, 1, 32, 32, 32)
    with torch.no_grad():
        maps, whole = net.encoder(images), net(images)
        with answering(net.encoder, maps):
            found = net(torch.zeros(2, 1, 32, 32, 32, dtype=torch.int64))
        again = net(images)
    for one, other, third in zip(*(x if isinstance(x, list) else [x] for x in (whole, found, again)), strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)


def test_a_damaged_case_is_named(cases, encoder, tmp_path):
    torn = tmp_path / "torn.b2nd"
    shutil.copy(cases[0].label, torn)
    broken = [cases[1], type(cases[0])("s9", "s9", tmp_path / "none.b2nd", torn)]
    with pytest.raises(UserError, match="case s9 can't be read"):
        fit(broken, encoder, tmp_path / "a", Pool(2, tmp_path))


def test_a_small_disk_is_told_before_anything_is_computed(tmp_path, machine, monkeypatch):
    machine(cache_gigabytes=0)
    like = [torch.zeros(1, 8, 16, 16, 16)]
    with pytest.raises(UserError, match=r"need 13\d+\.\d GB and .* GB are free; lower probe.crops_per_case"):
        _shelves(like, 10**10 // 1000, tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match="No space left on device"):
        _shelves(like, 10, tmp_path)
