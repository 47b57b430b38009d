"""Every task plug-in keeps the contract on three tiny cases; then what is said of ``segment`` alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ctfm import plugins, weights
from ctfm.errors import UserError
from ctfm.imaging import store, tiles
from ctfm.imaging.volume import Volume, read_image, write_nifti
from ctfm.tasks import _classifier, _measure, _model, _overlay, segment, triage
from ctfm.training import checkpoints
from tests.makers import cohort_cases, found_cases, random_encoder, repeated_cases, stored_cases

SMALL = {
    "segment": {"patch": (16, 32, 32), "epochs": 2, "batch": 2, "overlap": 0.25, "validate_every": 1},
    "triage": {"patch": (16, 16, 16), "epochs": 2, "batch": 2},
    "retrieve": {"patch": (16, 32, 32), "overlap": 0.0},
    "cluster": {"patch": (16, 32, 32), "overlap": 0.0, "perplexities": (2.0,)},
    "search": {"patch": (16, 16, 16), "overlap": 0.5, "spacing_mm": (2, 2, 2), "shown": ("liver",)},
    "stability": {"patch": (16, 64, 64)},
}
SMALL["pca"] = {"patch": (8, 16, 16), "overlap": 0.5, "crop": "volume"}
SMALL["saliency"] = {"overlap": 0.0, "spacing_mm": (4, 4, 4), "scans": 2}
SMALL["tumour"] = {**SMALL["segment"], "tumour": "spleen", "spacing_mm": (4, 2, 2)}
# What a kind of task learns from, and how many; others: scans with label maps.
MADE = {"triage": (found_cases, 3), "retrieve": (cohort_cases, 6), "cluster": (cohort_cases, 6)}
MADE["stability"] = (repeated_cases, 3)
ROW = {"case_id", "patient", "label", "group", "metric", "value", "note"}


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')


@pytest.mark.parametrize("name", plugins.names("tasks"))
def test_contract(name, encoder, tmp_path):
    task = plugins.get("tasks", name)
    make, count = MADE.get(name, (stored_cases, 3))
    cases = make(tmp_path / "cases", count)
    settings = task.Settings(**SMALL.get(name, {}))
    facts = task.fit(settings, encoder, cases[:2], cases[2:], tmp_path, seed=0)
    json.dumps(facts)
    about = json.loads((tmp_path / "model/model.json").read_text())
    assert about["task"] == name
    assert str(tmp_path) not in json.dumps([facts, about])
    task.predict(tmp_path / "model", cases, tmp_path / "predictions")
    rows = task.measure(settings, cases, tmp_path / "predictions")
    assert rows and all(set(row) == ROW for row in rows)
    assert {row["case_id"] for row in rows} <= {case.case for case in cases}
    assert all(isinstance(value, float) for value in task.scores(rows).values())
    assert isinstance(task.picture(settings, cases[0], tmp_path / "predictions"), Figure | None)


def fit(cases, encoder, out, val=(), seed=0, frozen=False, **options):
    settings = segment.Settings(**{**SMALL["segment"], **options})
    return settings, segment.fit(settings, encoder, cases, list(val), out, seed=seed, frozen=frozen)


def tensors(out):
    return weights.read_tensors(out / "model/model.safetensors")


def test_a_frozen_encoder_stays_as_it_was_with_its_statistics(cases, encoder, tmp_path):
    before = weights.load_encoder(encoder).module.state_dict()
    for name, frozen in (("frozen", True), ("free", False)):
        fit(cases, encoder, tmp_path / name, frozen=frozen)
        after = tensors(tmp_path / name)
        same = {key: torch.equal(value, after[f"encoder.{key}"]) for key, value in before.items()}
        assert all(same.values()) if frozen else not any(v for k, v in same.items() if "running_mean" in k)
    decoder = [k for k in after if k.startswith("up_layers") and "conv1" in k]
    assert decoder and any(not torch.equal(after[k], tensors(tmp_path / "frozen")[k]) for k in decoder)


def test_training_learns_the_boxes_and_is_known_by_its_seed(cases, encoder, tmp_path):
    options = {"epochs": 25, "learning_rate": 5e-3, "warmup_epochs": 1, "validate_every": 25}
    settings, facts = fit(cases, encoder, tmp_path / "a", val=cases[2:], **options)
    segment.predict(tmp_path / "a/model", cases, tmp_path / "a/predictions")
    scores = segment.scores(segment.measure(settings, cases, tmp_path / "a/predictions"))
    assert scores["micro_dice"] > 0.6
    assert facts["checkpoint"] == checkpoints.BEST
    again = {}
    for name, seed in (("b", 0), ("c", 0), ("d", 1)):
        fit(cases, encoder, tmp_path / name, seed=seed)
        again[name] = tensors(tmp_path / name)
    assert all(torch.equal(again["b"][k], again["c"][k]) for k in again["b"])
    assert not all(torch.equal(again["b"][k], again["d"][k]) for k in again["b"])


def test_predictions_are_in_ids_of_the_data_set_on_the_grid_of_the_case(cases, encoder, tmp_path):
    fit(cases, encoder, tmp_path, labels=("spleen", "cardiac"))
    about = json.loads((tmp_path / "model/model.json").read_text())
    assert [(x["output"], x["id"], x["name"], x["group"]) for x in about["labels"]] == [
        (1, 1, "spleen", "organs"),
        (2, 52, "aorta", "cardiac"),
    ]
    assert about["spacing_mm"] == [2, 2, 2]
    segment.predict(tmp_path / "model", cases[:1], tmp_path / "predictions")
    found = read_image(tmp_path / "predictions" / f"{cases[0].case}.nii.gz")
    truth = store.open_volume(cases[0].image)
    assert found.shape == truth.shape and np.allclose(found.affine, truth.affine)
    assert set(np.unique(found.array)) <= {0, 1, 52}
    table = json.loads((tmp_path / "predictions/labels.json").read_text())
    assert {row["name"]: (row["id"], row["group"]) for row in table} == {
        "spleen": (1, "organs"),
        "aorta": (52, "cardiac"),
    }


def test_a_perfect_prediction_has_dice_1_and_micro_dice(cases, tmp_path):
    for case in cases:
        write_nifti(store.open_volume(case.label).load(), tmp_path / f"{case.case}.nii.gz")
    rows = segment.measure(segment.Settings(), cases, tmp_path)
    assert {row["metric"]: row["value"] for row in rows} == {"dice": 1.0, "dice_strict": 1.0, "micro_dice": 1.0}
    assert {row["label"]: row["group"] for row in rows if row["metric"] == "dice"} == {
        "spleen": "organs",
        "liver": "organs",
        "aorta": "cardiac",
    }
    assert segment.scores(rows) == {"macro_dice": 1.0, "micro_dice": 1.0}
    figure = segment.picture(segment.Settings(), cases[0], tmp_path)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["CT", "truth", "prediction"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"spleen", "liver", "aorta"}


def test_surface_metrics_if_asked_for(cases, tmp_path):
    truth = store.open_volume(cases[0].label).load()
    moved = np.roll(truth.array, 1, axis=0)
    moved[moved == 1] = 0  # the spleen is missed
    write_nifti(Volume(moved.astype(np.float32), truth.affine), tmp_path / f"{cases[0].case}.nii.gz")
    settings = segment.Settings(surface=True, tolerance_mm=1.0, labels=("organs",))
    rows = segment.measure(settings, cases[:1], tmp_path)
    assert all(set(row) == ROW for row in rows)
    found = {(row["label"], row["metric"]): row["value"] for row in rows}
    assert found["liver", "hd95"] == 2.0 and 0 < found["liver", "assd"] < 2 and 0 < found["liver", "nsd"] < 1
    worst = np.linalg.norm((np.array(truth.shape) - 1) * truth.spacing)
    assert found["spleen", "hd95"] == pytest.approx(worst) and found["spleen", "missed"] == 1
    assert np.isnan(found["spleen", "asd"]) and found["spleen", "dice"] == found["spleen", "nsd"] == 0
    without = segment.measure(segment.Settings(labels=("organs",)), cases[:1], tmp_path)
    np.testing.assert_equal(without, rows[: len(without)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ids: np.where(ids == 5, 77, ids), "no label for: 77; predict this case anew"),
        (lambda ids: np.where(ids == 5, 300, ids), "the prediction holds values from 0 to 300"),
        (lambda ids: np.where(ids == 5, -1, ids), "the prediction holds values from -1 to 52"),
        (lambda ids: np.where(ids == 5, 0.5, ids).astype(np.float32), "the prediction holds fractions"),
        (lambda ids: np.where(ids == 5, np.nan, ids).astype(np.float32), "the prediction holds fractions"),
    ],
)
def test_ids_that_are_none_of_the_data_set_are_told(change, words, cases, tmp_path):
    truth = store.open_volume(cases[0].label).load()
    wrong = Volume(change(truth.array.astype(np.int16)), truth.affine)
    with pytest.raises(UserError, match=f"{cases[0].case}: .*{words}"):
        _measure.rows(cases[0], wrong, [{"name": "liver", "id": 5, "group": "organs"}])


def test_a_prediction_of_another_shape_is_told(cases):
    truth = store.open_volume(cases[0].label).load()
    with pytest.raises(UserError, match=f"{cases[0].case}: shapes differ"):
        _measure.rows(cases[0], Volume(truth.array[1:], truth.affine), [])


def test_bad_input_is_told(cases, encoder, tmp_path):
    with pytest.raises(UserError, match=r"'live' is neither a label nor a group.*did you mean 'liver'"):
        fit(cases, encoder, tmp_path, labels=("live",))
    with pytest.raises(UserError, match="patch: 24 is no multiple of 16"):
        fit(cases, encoder, tmp_path, patch=(24, 32, 32))
    with pytest.raises(UserError, match="no training case"):
        fit([], encoder, tmp_path)
    with pytest.raises(UserError, match="predict this case first"):
        segment.measure(segment.Settings(), cases, tmp_path)
    shifted = store.open_volume(cases[0].label).load()
    write_nifti(Volume(shifted.array, shifted.affine @ np.diag([2, 1, 1, 1])), tmp_path / f"{cases[0].case}.nii.gz")
    with pytest.raises(UserError, match="grid_differs"):
        segment.measure(segment.Settings(), cases, tmp_path)


def test_a_model_refuses_another_spacing_and_other_weights(cases, encoder, tmp_path):
    fit(cases, encoder, tmp_path)
    image = store.open_volume(cases[0].image).load()
    store.save(Volume(image.array, image.affine @ np.diag([2, 1, 1, 1])), tmp_path / "thick.b2nd")
    with pytest.raises(UserError, match="spacing 4 x 2 x 2 mm; the model works at 2 x 2 x 2 mm"):
        _model.load(tmp_path / "model").segment(tmp_path / "thick.b2nd")
    about = json.loads((tmp_path / "model/model.json").read_text())
    about["encoder"]["options"]["init_filters"] = 8
    (tmp_path / "model/model.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="weights don't fit"):
        _model.load(tmp_path / "model")


@pytest.mark.parametrize("gigabytes", [3.0, 4.0, 16.0])
@pytest.mark.parametrize("shape", [(500, 350, 350), (2000, 512, 512)])
def test_what_a_prediction_keeps_is_what_the_machine_allows(monkeypatch, gigabytes, shape):
    """118 classes in windows of 96 x 160 x 160: sums of all of the smaller scan would take 14 GB."""
    monkeypatch.setenv("CTFM_MACHINE", json.dumps({"predict_gigabytes": gigabytes}))
    labels = [{"name": str(i), "id": i, "group": "g"} for i in range(1, 118)]
    preprocess = plugins.get("encoders", "segresnet").PREPROCESS
    model = _model.Model(torch.nn.Identity(), {}, preprocess, labels, (96, 160, 160), 0.625, (1.5, 1.5, 1.5))
    tiling, window = model.tiling(torch.device("cpu")), 118 * 4 * 96 * 160 * 160
    kept = max(118 * 2 * 96 * np.prod(block.shape) for block in tiles.blocks(shape, tiling))
    assert kept + window + _model.PROGRAM_BYTES <= gigabytes * 1e9
    assert kept > 0.5 * min(gigabytes * 1e9 - window - _model.PROGRAM_BYTES, 118 * 2 * 96 * shape[1] * shape[2])


def test_fewer_validation_cases_can_be_asked_for(cases, encoder, tmp_path):
    _, facts = fit(cases[:1], encoder, tmp_path, val=cases, validation_cases=1)
    assert len(facts["val"]) == 1


def test_the_picture_takes_the_planes_with_most_labels():
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[4, 2, 3], labels[4, 2, 5], labels[1, 2, 3] = 1, 2, 3
    z, y, _ = _overlay.best_planes(labels)
    assert (z, y) == (4, 2)
    colours = _overlay.palette([1, 2, 50])
    assert colours[[1, 2, 50], 3].tolist() == [1, 1, 1] and colours[3, 3] == 0
    assert len(np.unique(colours[[1, 2, 50], :3], axis=0)) == 3


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return found_cases(tmp_path_factory.mktemp("scans"), 24)


def learn(scans, encoder, out, val=(), seed=0, **options):
    settings = triage.Settings(**{**SMALL["triage"], **options})
    return settings, triage.fit(settings, encoder, list(scans), list(val), out, seed=seed)


def test_triage_learns_to_find_bleeds_and_chooses_a_threshold(scans, encoder, tmp_path):
    options = {"epochs": 15, "batch": 4, "learning_rate": 3e-3, "validate_every": 5}
    settings, facts = learn(scans[:12], encoder, tmp_path, val=scans[12:18], **options)
    assert facts["checkpoint"] == checkpoints.BEST and facts["best"]["auroc"] > 0.8
    assert 0 < facts["threshold"] < 1
    triage.predict(tmp_path / "model", scans[18:], tmp_path / "predictions")
    rows = triage.measure(settings, scans[18:], tmp_path / "predictions")
    assert triage.scores(rows)["auroc"] > 0.8
    assert {row["metric"] for row in rows} == {"probability", "target", "threshold"}
    assert {row["value"] for row in rows if row["metric"] == "threshold"} == {facts["threshold"]}
    assert [row["value"] for row in rows if row["metric"] == "target"] == [0, 1, 0, 1, 0, 1]
    about = json.loads((tmp_path / "model/model.json").read_text())
    assert (about["finding"], about["spacing_mm"]) == ("abnormal", [5, 4, 4])
    assert about["windows"] == {"limits": [[0, 80], [-125, 175], [28, 36], [-900, 2100]], "axis": 2}
    figure = triage.picture(settings, scans[18], tmp_path / "predictions")
    assert len(figure.axes) == 4 and "not abnormal" in figure.get_suptitle()


def test_triage_is_known_by_its_seed_and_goes_on_where_it_stopped(scans, encoder, tmp_path):
    again = {}
    for name, seed in (("b", 0), ("c", 0), ("d", 1)):
        learn(scans[:4], encoder, tmp_path / name, seed=seed)
        again[name] = tensors(tmp_path / name)
    assert all(torch.equal(again["b"][k], again["c"][k]) for k in again["b"])
    assert not all(torch.equal(again["b"][k], again["d"][k]) for k in again["b"])
    _, facts = learn(scans[:4], encoder, tmp_path / "b")
    assert facts["steps"] == 4 and all(torch.equal(again["b"][k], v) for k, v in tensors(tmp_path / "b").items())
    assert facts["threshold"] is None


def test_a_frozen_triage_encoder_stays_as_it_was(scans, encoder, tmp_path):
    before = weights.load_encoder(encoder).module.state_dict()
    learn(scans[:4], encoder, tmp_path, freeze=True)
    after = tensors(tmp_path)
    assert all(torch.equal(value, after[f"encoder.{key}"]) for key, value in before.items())


def test_triage_heads_and_axes(scans, encoder, tmp_path_factory):
    """The Methods: the map's mean, one layer of half its width. The published run: maximum to 1x2x2, two layers."""
    made = {}
    unet = random_encoder(tmp_path_factory.mktemp("unet"), kind="suprem_unet")
    published = {"pool": "max", "pooled": (1, 2, 2), "hidden": (256, 128), "dropout": 0.2, "join": "first"}
    for kind, folder in (("segresnet", encoder), ("suprem_unet", unet)):
        for name, options in (("methods", {}), ("published", published)):
            settings = triage.Settings(**{**SMALL["triage"], **options})
            made[kind, name] = triage._new(settings, weights.load_encoder(folder), scans[0], 0)
    linear = {
        key: [m.out_features for m in model.net.head if hasattr(m, "out_features")] for key, model in made.items()
    }
    assert linear["segresnet", "methods"] == [32, 1]  # of 64 channels
    assert (
        linear["segresnet", "published"] == [256, 128, 1]
        and made["segresnet", "published"].net.head[1].in_features == 256
    )
    assert [made[key].windows.axis for key in made] == [2, 0, 2, 2]
    assert made["segresnet", "methods"].windows.limits == ((0, 80), (-125, 175), (28, 36), (-900, 2100))
    assert made["suprem_unet", "methods"].windows.limits[4:] == ((-175, 250),)  # as its weights were trained
    assert 0 <= made["suprem_unet", "published"].probability(scans[0].image) <= 1


def test_bad_input_of_triage_is_told(scans, cases, encoder, tmp_path, caplog):
    with pytest.raises(UserError, match="label maps, not findings"):
        learn(cases, encoder, tmp_path)
    with pytest.raises(UserError, match="findings of whole scans"):
        fit(scans, encoder, tmp_path)
    with pytest.raises(UserError, match="no training case"):
        learn([], encoder, tmp_path)
    learn([scans[0], scans[2]], encoder, tmp_path, epochs=1)
    assert "of one class" in caplog.text
    with pytest.raises(UserError, match="predict this case first"):
        triage.measure(triage.Settings(), scans[:1], tmp_path)
    (tmp_path / f"{scans[0].case}.json").write_text('{"probability": 7}')
    with pytest.raises(UserError, match="predict it anew"):
        triage.measure(triage.Settings(), scans[:1], tmp_path)
    with pytest.raises(UserError, match="a model of task 'triage', not of segmentation"):
        _model.load(tmp_path / "model")
    image = store.open_volume(scans[0].image).load()
    store.save(Volume(image.array, image.affine @ np.diag([2, 1, 1, 1])), tmp_path / "thick.b2nd")
    with pytest.raises(UserError, match="the model works at 5 x 4 x 4 mm"):
        _classifier.load(tmp_path / "model")[0].probability(tmp_path / "thick.b2nd")


def test_validation_cases_in_the_ratio_of_the_published_runs(scans, encoder, tmp_path):
    _, facts = learn(scans[:8], encoder, tmp_path, val=scans[8:16], validation_ratio=0.25, epochs=1)
    assert len(facts["val"]) == 2
