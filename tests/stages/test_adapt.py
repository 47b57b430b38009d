from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import typer

from ctfm import cases as case_table
from ctfm import tables
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume, write_nifti
from ctfm.stages.adapt import adapt, predict
from ctfm.tasks import segment
from tests import makers

OPTIONS = {"patch": [16, 32, 32], "epochs": 2, "batch": 2, "overlap": 0.25, "validate_every": 1}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')


def spec(shots="all", seed=0, **options):
    task = {"name": "wholebody", "kind": "segment", "dataset": "d", "options": {**OPTIONS, **options}}
    job = {"stage": "adapt", "version": 1, "task": task, "encoder": "tiny", "shots": shots, "seed": seed}
    return json.dumps(job)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt")
    makers.random_encoder(folder / "tiny")
    makers.case_table(folder / "cases", {"train": 3, "val": 1, "test": 2})
    return folder


@pytest.fixture(scope="module")
def adapted(folder):
    """Return the folder of a small adaptation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')
        run(folder, folder / "out", spec=spec())
    return folder / "out"


def run(folder, out, **options):
    adapt(encoder=folder / "tiny", cases=folder / "cases/cases.parquet", out=out, **options)
    return json.loads((out / "run.json").read_text())


def test_outputs_are_whole(folder, adapted):
    facts = json.loads((adapted / "run.json").read_text())
    assert facts["train"] == ["s0000", "s0001", "s0002"] and facts["val"] == ["s0003"]
    assert facts["test"] == ["s0004", "s0005"]
    assert facts["split_hash"] == case_table.split_hash(tables.read("cases", folder / "cases/cases.parquet"))
    assert {"ctfm.tasks.segment", "ctfm.encoders.segresnet", "ctfm.training.segmentation"} <= set(facts["code"])
    assert {p.name for p in (adapted / "predictions").glob("*.nii.gz")} == {"s0004.nii.gz", "s0005.nii.gz"}
    assert {p.name for p in (adapted / "model").iterdir()} == {"model.json", "model.safetensors"}
    assert str(folder) not in (adapted / "run.json").read_text() + (adapted / "model/model.json").read_text()


def test_few_shots_are_drawn_by_seed(folder, tmp_path):
    drawn = {
        seed: run(folder, tmp_path / str(seed), spec=spec(1, seed, epochs=1, validate_every=9))["train"]
        for seed in (0, 1, 2)
    }
    assert all(len(names) == 1 for names in drawn.values())
    assert len({names[0] for names in drawn.values()}) > 1
    with pytest.raises(UserError, match="4 cases are asked for and there are 3"):
        run(folder, tmp_path / "x", spec=spec(4))


def test_a_second_start_trains_and_predicts_nothing_again(folder, tmp_path):
    first = run(folder, tmp_path, spec=spec())
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "predictions").glob("*.nii.gz")}
    (tmp_path / "predictions/s0005.nii.gz").unlink()
    (tmp_path / "run.json").unlink()
    second = run(folder, tmp_path, spec=spec())
    assert second["seconds"] == first["seconds"] and second["fingerprint"] == first["fingerprint"]
    assert (tmp_path / "predictions/s0004.nii.gz").stat().st_mtime_ns == stamps[tmp_path / "predictions/s0004.nii.gz"]
    assert (tmp_path / "predictions/s0005.nii.gz").exists()
    other = run(folder, tmp_path, spec=spec(learning_rate=1e-3))
    assert other["fingerprint"] != first["fingerprint"]
    assert (tmp_path / "predictions/s0004.nii.gz").stat().st_mtime_ns != stamps[tmp_path / "predictions/s0004.nii.gz"]


def test_without_validation_cases_the_last_weights_are_taken(folder, tmp_path):
    makers.case_table(tmp_path / "cases", {"train": 2, "test": 1})
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    assert run(tmp_path, tmp_path / "out", spec=spec())["checkpoint"] == "last.ckpt"


def test_a_test_patient_never_trains(folder, tmp_path):
    path = makers.case_table(tmp_path / "cases", {"train": 2, "val": 1, "test": 1})
    tables.write(tables.read("cases", path).assign(patient=["p0", "p1", "p9", "p9"]), "cases", path)
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    with pytest.raises(UserError, match="patient 'p9' is in the test split and in training or validation"):
        run(tmp_path, tmp_path / "out", spec=spec())


@pytest.fixture
def by_threshold(monkeypatch):
    """Let the model find dense tissue as label 52: geometry can then be checked without any learning."""

    def predict(model, cases, out):
        for case in cases:
            stored = store.open_volume(case.image).load()
            assert np.allclose(stored.spacing, 2)
            write_nifti(Volume((stored.array > 300).astype(np.uint8) * 52, stored.affine), out / f"{case.case}.nii.gz")
        (out / "labels.json").write_text('{"aorta": 52}')

    monkeypatch.setattr(segment, "predict", predict)


def scan(path, affine, seed=9):
    makers.write_case(path, seed=seed, shape=(40, 30, 34), affine=affine)
    return path / "ct.nii.gz"


def test_a_scan_of_any_grid_is_labelled_on_its_own(adapted, by_threshold, tmp_path):
    flips = np.array([[0, 0, -2.2, 10], [1.3, 0, 0, 20], [0, -1.9, 0, 30], [0, 0, 0, 1.0]])
    path = scan(tmp_path / "in", flips)
    sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "other.nrrd"))
    predict([path, tmp_path / "other.nrrd"], model=adapted / "model", out=tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"ct.nii.gz", "other.nii.gz", "labels.json"}
    source, found = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "out/ct.nii.gz"))
    assert found.GetSize() == source.GetSize()
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(found, get)(), getattr(source, get)(), atol=1e-4)
    same = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/other.nii.gz")))
    assert np.array_equal(same, sitk.GetArrayFromImage(found))
    ids, dense = sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(source) > 300
    dice = 2 * (dense & (ids == 52)).sum() / (dense.sum() + (ids == 52).sum())
    assert dice > 0.75 and set(np.unique(ids)) == {0, 52}  # it went through 2 mm and back


def test_one_broken_scan_costs_only_itself(adapted, tmp_path):
    (tmp_path / "torn.nii.gz").write_bytes(b"torn")
    (tmp_path / "empty").mkdir()
    good = scan(tmp_path / "in", np.diag([2.0, 2, 2, 1]))
    paths = [tmp_path / "torn.nii.gz", tmp_path / "empty", tmp_path / "gone.nrrd", good]
    with pytest.raises(typer.Exit) as left:
        predict(paths, model=adapted / "model", out=tmp_path / "out")
    assert left.value.exit_code == 1
    failures = json.loads((tmp_path / "out/failures.json").read_text())
    assert {name: told["reason"] for name, told in failures.items()} == {
        "torn": "unreadable",
        "empty": "no_files",
        "gone": "missing_image",
    }
    assert (tmp_path / "out/ct.nii.gz").exists()
    predict([good, good], model=adapted / "model", out=tmp_path / "out")
    assert not (tmp_path / "out/failures.json").exists() and (tmp_path / "out/ct-2.nii.gz").exists()


def test_a_missing_model_is_told(tmp_path):
    with pytest.raises(UserError, match="name the folder 'model'"):
        predict([tmp_path / "a.nii.gz"], model=tmp_path, out=tmp_path / "out")


def test_a_real_dicom_series_gets_labels_where_they_are(adapted, by_threshold, tmp_path, shared_data):
    predict([shared_data / "dicom/trunk_jpeg2000"], model=adapted / "model", out=tmp_path)
    truth = sitk.ReadImage(str(shared_data / "nifti/trunk_jpeg2000_totalsegmentator_labels.nii.gz"))
    found = sitk.ReadImage(str(tmp_path / "trunk_jpeg2000.nii.gz"))
    assert sorted(found.GetSize()) == sorted(truth.GetSize())
    there = sitk.GetArrayFromImage(sitk.Resample(found, truth, sitk.Transform(), sitk.sitkNearestNeighbor)) == 52
    ids = sitk.GetArrayFromImage(truth)
    bone, soft = (ids >= 25) & (ids <= 50), (ids == 1) | (ids == 5)  # sacrum and vertebrae; spleen and liver
    assert there[bone].mean() > 0.15 > 0.01 > there[soft].mean()
