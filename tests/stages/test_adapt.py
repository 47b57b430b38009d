from __future__ import annotations

import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import typer
from scipy.spatial.transform import Rotation

from ctfm import cases as case_table
from ctfm import tables
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume, write_nifti
from ctfm.phantom.dicom import write_corpus
from ctfm.stages.adapt import adapt, predict
from ctfm.tasks import segment
from tests import makers

OPTIONS = {"patch": [16, 32, 32], "epochs": 2, "batch": 2, "overlap": 0.25, "validate_every": 1}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')


def spec(shots="all", seed=0, **options):
    task = {
        "name": "wholebody",
        "kind": "segment",
        "dataset": "d",
        "few_shot": "random",
        "options": {**OPTIONS, **options},
    }
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


@pytest.fixture(scope="module")
def learnt(folder):
    """Return the folder of an adaptation that was long enough to learn something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')
        run(folder, folder / "learnt", spec=spec(epochs=30, learning_rate=5e-3, warmup_epochs=1, validate_every=30))
    return folder / "learnt"


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


FLIPS = np.array([[0, 0, -2.2, 10], [1.3, 0, 0, 20], [0, -1.9, 0, 30], [0, 0, 0, 1.0]])
TURN = Rotation.from_euler("xyz", (20, -15, 10), degrees=True).as_matrix()
GRIDS = {
    "flipped and permuted": FLIPS,
    "oblique": np.block([[TURN * (1.3, 1.9, 2.2), np.array([[5], [-7], [9]])], [np.zeros((1, 3)), 1.0]]),
    "thick slices": np.diag([1.5, 1.5, 5.0, 1.0]),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_scan_of_any_grid_is_labelled_on_its_own(adapted, by_threshold, tmp_path, grid):
    path = scan(tmp_path / "in", GRIDS[grid])
    sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "other.nrrd"))
    predict([path, tmp_path / "other.nrrd"], model=adapted / "model", out=tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"ct.nii.gz", "other.nii.gz", "labels.json"}
    source, found = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "out/ct.nii.gz"))
    assert found.GetSize() == source.GetSize()
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(found, get)(), getattr(source, get)(), atol=1e-4)
    assert np.allclose(nib.load(tmp_path / "out/ct.nii.gz").affine, GRIDS[grid], atol=1e-4)
    same = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/other.nii.gz")))
    assert np.array_equal(same, sitk.GetArrayFromImage(found))
    ids, dense = sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(source) > 300
    dice = 2 * (dense & (ids == 52)).sum() / (dense.sum() + (ids == 52).sum())
    assert dice > 0.75 and set(np.unique(ids)) == {0, 52}  # it went through 2 mm and back


def reoriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """Return the same scan with other axes, by nibabel."""
    ornt = nib.orientations
    change = ornt.ornt_transform(ornt.io_orientation(image.affine), ornt.axcodes2ornt(codes))
    return image.as_reoriented(change)


@pytest.mark.parametrize("grid", ["oblique", "thick slices"])
def test_a_reoriented_copy_gets_the_reoriented_labels(learnt, tmp_path, grid):
    """With a network that finds all labels, not a stand-in. What an orientation is, nibabel says."""
    source = nib.load(scan(tmp_path / "in", GRIDS[grid]))
    paths = []
    for codes in ("RAS", "LPS", "SPL", "AIR", "ILP"):
        paths.append(tmp_path / f"{codes}.nii.gz")
        nib.save(reoriented(source, codes), paths[-1])
    predict(paths, model=learnt, out=tmp_path / "out")
    first = nib.load(tmp_path / "out/RAS.nii.gz")
    assert np.unique(first.dataobj).tolist() == [0, 1, 5, 52]
    for path in paths[1:]:
        found = nib.load(tmp_path / "out" / path.name)
        wanted = reoriented(first, path.name.split(".")[0])
        assert np.allclose(found.affine, nib.load(path).affine, atol=1e-4)
        assert np.array_equal(np.asarray(found.dataobj), np.asarray(wanted.dataobj))


def test_the_label_table_and_what_was_done_are_for_machines(adapted, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    good = scan(tmp_path / "in", np.diag([2.0, 2, 2, 1]))
    (tmp_path / "torn.nii").write_bytes(b"torn")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/torn.nii.gz").write_bytes(b"of an earlier call")
    with pytest.raises(typer.Exit):
        predict([good, tmp_path / "torn.nii"], model=adapted / "model", out=tmp_path / "out", as_json=True)
    told = json.loads(capsys.readouterr().out)
    about = json.loads((adapted / "model/model.json").read_text())
    assert told["preprocessing"]["spacing_mm"] == about["spacing_mm"] == [2, 2, 2]
    assert told["preprocessing"]["hu_window"] == about["preprocess"]["hu_window"]
    assert [(row["name"], row["result"], row["reason"]) for row in told["scans"]] == [
        ("ct", "ct.nii.gz", ""),
        ("torn", "", "unreadable"),
    ]
    assert not (tmp_path / "out/torn.nii.gz").exists()
    table = json.loads((tmp_path / "out/labels.json").read_text())
    assert [(row["id"], row["name"], row["group"]) for row in table] == [
        (1, "spleen", "organs"),
        (5, "liver", "organs"),
        (52, "aorta", "cardiac"),
    ]
    assert len({row["colour"] for row in table}) == 3 and all(len(row["colour"]) == 7 for row in table)
    assert '"hu_window": [-1024.0, 2048.0]' in caplog.text and "layers of windows" in caplog.text


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


def test_the_command_goes_on_after_a_scan_of_four_dimensions(adapted, tmp_path):
    image = nib.load(scan(tmp_path / "in", GRIDS["oblique"]))
    nib.save(image, tmp_path / "good.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, axis=3), image.affine), tmp_path / "four.nii.gz")
    command = [sys.executable, "-m", "ctfm", "predict", "--encoder", adapted, "--out", "out", "--json"]
    call = [*map(str, command), "four.nii.gz", "gone", "good.nii.gz"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    told = {row["name"]: (row["result"], row["reason"]) for row in json.loads(done.stdout)["scans"]}
    assert told == {"four": ("", "not_3d"), "gone": ("", "missing_image"), "good": ("good.nii.gz", "")}
    failures = json.loads((tmp_path / "out/failures.json").read_text())
    assert failures["four"]["detail"] == "four.nii.gz: 4 dimensions; give one volume of it"
    assert failures["gone"]["detail"] == "gone is not there"
    assert nib.load(tmp_path / "out/good.nii.gz").shape == image.shape


def test_dicom_folders_of_phantoms_get_labels_where_they_are(adapted, by_threshold, tmp_path):
    """However the patient lies in the scanner; where the slices are, SimpleITK says."""
    write_corpus(tmp_path / "in", series=5, broken=2, slices=16, matrix=64, seed=0)
    folders = sorted((tmp_path / "in").iterdir())
    with pytest.raises(typer.Exit):
        predict(folders, model=adapted, out=tmp_path / "out")
    failures = json.loads((tmp_path / "out/failures.json").read_text())
    assert sorted(row["reason"] for row in failures.values()) == ["localizer", "missing_slice"]
    good = [folder for folder in folders if folder.name not in failures]
    assert len(good) == 5
    for folder in good:
        source = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        found = sitk.ReadImage(str(tmp_path / "out" / f"{folder.name}.nii.gz"))
        assert found.GetSize() == source.GetSize()
        found = sitk.Resample(found, source, sitk.Transform(), sitk.sitkNearestNeighbor)
        ids, dense = sitk.GetArrayFromImage(found) == 52, sitk.GetArrayFromImage(source) > 300
        assert 2 * (dense & ids).sum() / (dense.sum() + ids.sum()) > 0.6, folder.name


def test_a_missing_model_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="name what 'ctfm adapt' made"):
        predict([tmp_path / "a.nii.gz"], model=tmp_path, out=tmp_path / "out")
    with pytest.raises(UserError, match="this is an encoder alone: fine-tune it"):
        predict([tmp_path / "a.nii.gz"], model=folder / "tiny", out=tmp_path / "out")


def test_too_little_memory_is_told(adapted, tmp_path, monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"predict_gigabytes": 1.5}')
    path = scan(tmp_path / "in", np.diag([2.0, 2, 2, 1]))
    with pytest.raises(UserError, match=r"predict_gigabytes: 1.5 is too little for this model; it needs 1.7"):
        predict([path], model=adapted, out=tmp_path / "out")


def test_a_real_dicom_series_gets_labels_where_they_are(adapted, by_threshold, tmp_path, shared_data):
    predict([shared_data / "dicom/trunk_jpeg2000"], model=adapted / "model", out=tmp_path)
    truth = sitk.ReadImage(str(shared_data / "nifti/trunk_jpeg2000_totalsegmentator_labels.nii.gz"))
    found = sitk.ReadImage(str(tmp_path / "trunk_jpeg2000.nii.gz"))
    assert sorted(found.GetSize()) == sorted(truth.GetSize())
    there = sitk.GetArrayFromImage(sitk.Resample(found, truth, sitk.Transform(), sitk.sitkNearestNeighbor)) == 52
    ids = sitk.GetArrayFromImage(truth)
    bone, soft = (ids >= 25) & (ids <= 50), (ids == 1) | (ids == 5)  # sacrum and vertebrae; spleen and liver
    assert there[bone].mean() > 0.15 > 0.01 > there[soft].mean()


def test_a_triage_model_is_tested_on_further_data_sets_and_on_own_scans(tmp_path):
    makers.random_encoder(tmp_path / "tiny")
    own = makers.case_table(tmp_path / "heads", {"train": 4, "val": 2, "test": 2}, makers.found_cases)
    other = makers.case_table(tmp_path / "others", {"test": 3}, makers.found_cases)
    task = {"name": "triage", "kind": "triage", "dataset": "heads", "few_shot": "random", "external": ["others"]}
    job = {"stage": "adapt", "version": 1, "encoder": "tiny", "shots": "all", "seed": 0}
    job["task"] = {**task, "options": {"patch": [16, 16, 16], "epochs": 1, "batch": 2}}
    for _ in range(2):
        adapt(tmp_path / "tiny", own, tmp_path / "out", external=[other], spec=json.dumps(job))
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert facts["external"]["others"]["test"] == 3 and len(facts["test"]) == 2
    answers = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "out/external/others").glob("h*.json")}
    assert len(answers) == 3 and {a["threshold"] for a in answers.values()} == {facts["threshold"]}
    image = store.open_volume(tmp_path / "heads/h0001.b2nd").load()
    write_nifti(image, tmp_path / "mine.nii.gz")
    (tmp_path / "torn.nrrd").write_bytes(b"torn")
    with pytest.raises(typer.Exit):
        predict([tmp_path / "mine.nii.gz", tmp_path / "torn.nrrd"], model=tmp_path / "out", out=tmp_path / "answers")
    assert {p.name for p in (tmp_path / "answers").iterdir()} == {"mine.json", "failures.json"}
    found = json.loads((tmp_path / "answers/mine.json").read_text())
    assert 0 < found["probability"] < 1 and found["finding"] == "abnormal"
