"""What is said of task ``tumour`` beyond the contract of tasks: analysis, grids, measures, both engines."""

from __future__ import annotations

import importlib.machinery
import json
import math
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.apps.auto3dseg import DataAnalyzer
from monai.bundle import ConfigParser
from monai.networks.nets import SegResNetDS

from ctfm import weights
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume, read_image, write_nifti
from ctfm.tasks import CaseFile, _analysis, _auto3dseg, _slices, tumour
from tests.conftest import ROOT

TEMPLATES = ROOT / "tests/contracts/templates"
SMALL = {"tumour": "spleen", "epochs": 2, "batch": 2, "overlap": 0.25, "validate_every": 2}


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')


def spaced(folder, spacing=(3.0, 1.0, 1.5), shape=(16, 40, 30)):
    """Return a stored case of two lesions, one slice of a liver around them."""
    label = np.zeros(shape, np.uint8)
    label[4:12, 5:35, 5:25] = 1
    label[5:8, 8:14, 8:14] = label[5:10, 20:30, 10:20] = 2
    affine = np.diag([*spacing, 1.0])[[2, 1, 0, 3]]
    image = (100 * (label == 1) + 40 * (label == 2) - 1000 * (label == 0)).astype(np.int16)
    meta = {"ids": {"liver": 1, "cancer": 2}, "groups": {"liver": "organ", "cancer": "tumour"}, "key": "k"}
    store.save(Volume(image, affine), folder / "a.b2nd")
    store.save(Volume(label, affine), folder / "a_label.b2nd", meta)
    return CaseFile("a", "a", folder / "a.b2nd", folder / "a_label.b2nd"), Volume(label, affine)


def test_the_report_equals_that_of_the_same_cases_as_nifti(cases, tmp_path):
    found = _analysis.report(cases, tmp_path / "ours.yaml")["stats_summary"]
    entries = []
    for case in cases:
        for path, name in ((case.image, f"{case.case}.nii.gz"), (case.label, f"{case.case}_label.nii.gz")):
            write_nifti(store.open_volume(path).load(), tmp_path / name)
        entries.append({"image": f"{case.case}.nii.gz", "label": f"{case.case}_label.nii.gz"})
    analyzer = DataAnalyzer({"training": entries}, str(tmp_path), str(tmp_path / "theirs.yaml"), device="cpu", worker=0)
    theirs = analyzer.get_all_case_stats()["stats_summary"]
    for key in ("image_stats", "image_foreground_stats"):
        assert ours_equal(found[key], theirs[key]), key
    assert _analysis.derive(found) == _analysis.derive(theirs)
    written = yaml.safe_load((tmp_path / "ours.yaml").read_text())
    assert (
        written["stats_summary"]["n_cases"] == 3 and str(tmp_path) not in (tmp_path / "ours_by_case.yaml").read_text()
    )


def ours_equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(ours_equal(one[key], other[key]) for key in one)
    return np.allclose(np.asarray(one, float), np.asarray(other, float), rtol=1e-5)


def summary(spacing, fine, size, cases=100):
    stats = {"spacing": {"median": spacing, "percentile_10_0": fine}, "sizemm": {"median": size}}
    return {
        "image_stats": stats,
        "image_foreground_stats": {"intensity": {"percentile_00_5": -40.0, "percentile_99_5": 190.0}},
        "n_cases": cases,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # large scans: the template's own window; slices no finer than pixels
        (summary([0.8, 0.8, 1.0], [0.7, 0.7, 0.7], [400, 400, 450]), ((0.8, 0.8, 0.8), (144, 224, 224), 800)),
        (summary([0.8, 0.8, 5.0], [0.7, 0.7, 2.5], [400, 400, 450]), ((2.5, 0.8, 0.8), (144, 224, 224), 800)),
        # few slices: the window grows in the slice until it holds as much, or the scan ends
        (summary([1.0, 1.0, 5.0], [1.0, 1.0, 5.0], [400, 400, 300], 20), ((5.0, 1.0, 1.0), (48, 384, 384), 1250)),
        (summary([2.0, 2.0, 2.0], [2.0, 2.0, 2.0], [100, 100, 40], 999), ((2.0, 2.0, 2.0), (32, 48, 48), 300)),
    ],
)
def test_parameters_follow_the_rules_of_the_template(given, expected):
    found = _analysis.derive(given)
    assert (found.spacing_mm, found.patch, found.epochs) == expected
    assert found.hu_window == (-40, 190)


def test_settings_stand_in_place_of_what_is_derived():
    derived = _analysis.Derived((1, 1, 1), (144, 224, 224), (-40, 190), 800)
    assert tumour.plan(tumour.Settings(), derived) == derived
    own = tumour.plan(tumour.Settings(spacing_mm=(3, 2, 2), epochs=5, hu_window="encoder"), derived)
    assert own == ((3, 2, 2), (144, 224, 224), (-40, 190), 5)


def test_a_case_that_cannot_be_analysed_is_named(cases, tmp_path):
    store.save(Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "odd_label.b2nd", {})
    odd = CaseFile("odd", "odd", cases[0].image, tmp_path / "odd_label.b2nd")
    with pytest.raises(UserError, match="odd: MONAI's DataAnalyzer can't read these cases"):
        _analysis.report([*cases[:1], odd], tmp_path / "report.yaml")


def test_native_trains_at_the_derived_parameters_and_keeps_the_report(cases, encoder, tmp_path, monkeypatch):
    facts = tumour.fit(tumour.Settings(**SMALL), encoder, cases[:2], cases[2:], tmp_path, seed=0)
    about = json.loads((tmp_path / "model/model.json").read_text())
    report = yaml.safe_load((tmp_path / facts["analysis"]).read_text())["stats_summary"]
    derived = _analysis.derive(report)
    assert about["spacing_mm"] == list(derived.spacing_mm) == [2, 2, 2] and about["patch"] == list(derived.patch)
    assert about["preprocess"]["hu_window"] == list(derived.hu_window) == facts["hu_window"]
    assert not (tmp_path / "resampled").exists()
    monkeypatch.setattr(_analysis, "report", None)  # nothing is analysed again
    assert _analysis.analysed(cases[:2], tmp_path) == derived
    with pytest.raises(TypeError):
        _analysis.analysed(cases[1:], tmp_path)
    with pytest.raises(UserError, match="no training case"):
        tumour.fit(tumour.Settings(**SMALL), encoder, [], [], tmp_path, seed=0)


def test_the_window_of_the_encoder_can_be_kept(cases, encoder, tmp_path):
    settings = tumour.Settings(**SMALL, hu_window="encoder", spacing_mm=(4, 2, 2), patch=(16, 32, 32))
    tumour.fit(settings, encoder, cases[:2], [], tmp_path, seed=0)
    about = json.loads((tmp_path / "model/model.json").read_text())
    assert about["preprocess"]["hu_window"] == list(weights.load_encoder(encoder).preprocess.hu_window)
    assert about["spacing_mm"] == [4, 2, 2]
    tumour.predict(tmp_path / "model", cases[:1], tmp_path / "predictions")
    found, truth = read_image(tmp_path / "predictions/s0000.nii.gz"), store.open_volume(cases[0].label).load()
    assert found.shape == truth.shape and np.allclose(found.affine, truth.affine)


def measured(prediction, case, folder, **options):
    write_nifti(prediction, folder / f"{case.case}.nii.gz")
    rows = tumour.measure(tumour.Settings(**options), [case], folder)
    return rows, {(row["label"], row["metric"]): (row["value"], row["note"]) for row in rows}


def test_one_lesion_found_one_missed_one_made_up(tmp_path):
    case, truth = spaced(tmp_path)
    given = truth.array.copy()
    given[5:8, 8:14, 8:14] = 1  # the small one is missed
    given[0, 0, 0] = 2
    rows, found = measured(Volume(given, truth.affine), case, tmp_path)
    of = {metric: value for (label, metric), (value, _) in found.items() if label == "cancer"}
    assert (of["lesions_found"], of["lesions_missed"], of["lesions_false_positive"]) == (1, 1, 1)
    assert of["truth_ml"] == pytest.approx((3 * 6 * 6 + 5 * 10 * 10) * 4.5 / 1000)
    assert of["missed"] == 0 and of["hd95"] > 0 and of["assd"] != of["asd"]
    assert {row["group"] for row in rows if row["label"] == "cancer"} == {"tumour"}
    assert not {m for label, m in found if label == "liver"} & {"asd", "lesions_found"}
    assert tumour.scores(rows)["tumour_dice"] == pytest.approx(of["dice"])


def test_a_missed_tumour_is_in_every_row_and_costs(tmp_path):
    case, truth = spaced(tmp_path)
    _, found = measured(Volume((truth.array > 0).astype(np.uint8), truth.affine), case, tmp_path)
    notes = {metric: note for (label, metric), (_, note) in found.items() if label == "cancer"}
    assert all(note.startswith("missed") for note in notes.values()), notes
    assert found["cancer", "dice"][0] == 0 and math.isnan(found["cancer", "asd"][0])
    worst = np.linalg.norm((np.array(truth.shape) - 1) * truth.spacing)
    assert found["cancer", "assd"][0] == pytest.approx(worst) and found["cancer", "nsd"][0] == 0


def test_planes_pass_through_the_largest_lesion_of_the_median_case(cases, tmp_path):
    case, truth = spaced(tmp_path)
    write_nifti(truth, tmp_path / "a.nii.gz")
    rows = _slices.rows("tumour", [case], tmp_path)
    assert [row["plane"] for row in rows] == ["axial", "coronal", "sagittal"]
    for row in rows:
        shape = row["rows"], row["columns"]
        seen = np.reshape(row["truth"], shape)
        assert seen.sum() and np.array_equal(seen, np.reshape(row["prediction"], shape))
        assert np.reshape(row["image"], shape)[seen == 1].tolist() == [40] * int(seen.sum())
    assert [(row["row_mm"], row["column_mm"]) for row in rows] == [(1.0, 1.5), (3.0, 1.5), (3.0, 1.0)]
    assert _slices.middle(truth.array == 2)[0] == 7  # of slices 5 to 9
    assert _slices.rows("cancer", [], tmp_path) == []
    with pytest.raises(UserError, match="predict this case first"):
        _slices.rows("spleen", cases, tmp_path)


@pytest.fixture
def fire(monkeypatch):
    """Let the package be there that MONAI's templates need; the stand-in does not."""
    module = type(sys)("fire")
    module.__spec__ = importlib.machinery.ModuleSpec("fire", None)
    monkeypatch.setitem(sys.modules, "fire", module)


def test_auto3dseg_runs_monais_runner_on_templates(cases, encoder, tmp_path, fire):
    settings = tumour.Settings(**SMALL, engine="auto3dseg", templates=str(TEMPLATES), learning_rate=5e-4)
    facts = tumour.fit(settings, encoder, cases[:2], cases[2:], tmp_path, seed=0)
    assert str(tmp_path) not in json.dumps(facts) and facts["val"] == ["s0002"]
    bundle = tmp_path / "model/segresnet_0"
    made = ConfigParser.load_config_file(str(bundle / "configs/hyper_parameters.yaml"))
    derived = _analysis.analysed(cases[:2], tmp_path)
    assert made["resample_resolution"] == list(derived.spacing_mm) and made["roi_size"] == list(derived.patch)
    assert made["intensity_bounds"] == list(derived.hu_window) and made["num_epochs"] == 2 and made["analysed"] == 2
    assert made["learning_rate"] == 5e-4 and made["optimizer"]["weight_decay"] == 1e-5
    assert made["class_names"] == ["spleen", "liver", "aorta"] and made["orientation_ras"] is False
    net = SegResNetDS(3, init_filters=4, out_channels=4, norm="BATCH", blocks_down=[1] * 5, dsdepth=4)
    trained = torch.load(bundle / "model/model.pt", weights_only=True)["state_dict"]
    net.load_state_dict(trained, strict=True)
    for key, value in weights.load_encoder(encoder).module.state_dict().items():
        assert torch.equal(trained[f"encoder.{key}"], value), key
    task = yaml.safe_load((tmp_path / "auto3dseg/task.yaml").read_text())
    assert task["network#norm"] == "BATCH" and task["finetune#enabled"]
    tumour.predict(tmp_path / "model", cases[:1], tmp_path / "predictions")
    found, scan = read_image(tmp_path / "predictions/s0000.nii.gz"), store.open_volume(cases[0].image).load()
    assert np.allclose(found.affine, scan.affine)
    assert np.array_equal(found.array, np.array([0, 1, 5, 52])[(scan.array > -500).astype(int) + (scan.array > 90)])
    assert tumour.measure(settings, cases[:1], tmp_path / "predictions")


def test_images_for_auto3dseg_run_as_the_weights_saw_them(cases, tmp_path):
    scan = store.open_volume(cases[0].image).load()
    _auto3dseg._spl(scan, tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    assert nib.aff2axcodes(image.affine) == ("S", "P", "L") and np.array_equal(image.get_fdata(), scan.array)


def test_without_templates_the_remedy_is_told(cases, encoder, tmp_path, fire, monkeypatch):
    def fit(some=cases, **options):
        settings = tumour.Settings(**SMALL, engine="auto3dseg", **options)
        tumour.fit(settings, encoder, some[:1], some[1:], tmp_path, seed=0)

    with pytest.raises(UserError, match=r"set 'templates' to a folder of them, or to https://.*take 'native'"):
        fit()
    with pytest.raises(UserError, match=r"segresnet/scripts/algo\.py: no such file.*set 'templates'"):
        fit(templates=str(tmp_path))
    with pytest.raises(UserError, match=r"templates_sha256: give the checksum of http://127\.0\.0\.1:9/t\.tar\.gz"):
        fit(templates="http://127.0.0.1:9/t.tar.gz")
    with pytest.raises(UserError, match=r"t\.tar\.gz: can't be fetched"):
        fit(templates="http://127.0.0.1:9/t.tar.gz", templates_sha256="0" * 64)
    with pytest.raises(UserError, match="chooses its model on validation cases"):
        fit(cases[:1], templates=str(TEMPLATES))
    with pytest.raises(UserError, match="trains the whole net"):
        fit(freeze=True)
    monkeypatch.delitem(sys.modules, "fire")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="need the package 'fire': pip install fire"):
        fit(templates=str(TEMPLATES))
