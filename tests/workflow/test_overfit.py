"""Real labelled CT, learnt by heart: geometry and labels are right from the files of a data set to a label map.

One scan trains, and the same scan with other axes (nibabel says what that is) is the test case; then the scan itself
is given to `ctfm predict` and its map held against the labels as published, on their own grid. A flip, a shift or an
exchange of labels anywhere on the way would cost far more than a tenth of Dice.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml

from ctfm import plugins, tables
from ctfm.stages.adapt import adapt, predict
from ctfm.stages.datasets import datasets
from ctfm.stages.evaluate import evaluate
from ctfm.stages.export import import_weights

pytestmark = pytest.mark.workflow

IDS = plugins.get("datasets", "totalsegmentator").LABELS
SCANS = {
    # large organs; spacing (z, y, x), mm; window; learning steps; how the test copy lies
    "abdomen_3mm": (("liver", "spleen", "kidney_right", "kidney_left"), (3, 3, 3), (32, 64, 64), 120, "PIR"),
    "trunk_jpeg2000": (("liver", "spleen", "stomach"), (2, 4, 4), (32, 64, 64), 120, "ASL"),
}
OPTIONS = {"batch": 2, "epochs": 1, "learning_rate": 1e-2, "warmup_epochs": 0.1, "overlap": 0.25}
NO_VIEWS = {f"{name}_p": 0 for name in ("affine", "smooth", "intensity", "shift", "noise")}


def pair(data: Path, name: str) -> tuple[sitk.Image, sitk.Image]:
    """Return CT and labels on one grid, read by SimpleITK."""
    labels = sitk.ReadImage(str(data / f"nifti/{name}_totalsegmentator_labels.nii.gz"))
    if (data / f"nifti/{name}.nii.gz").exists():
        return sitk.ReadImage(str(data / f"nifti/{name}.nii.gz")), labels
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(data / "dicom" / name))
    scan = sitk.ReadImage(files)
    return scan, sitk.Resample(labels, scan, sitk.Transform(), sitk.sitkNearestNeighbor)


def write_data_set(root: Path, scan: sitk.Image, labels: sitk.Image, codes: str, masks: bool) -> None:
    """Write the scan as a training case, and with other axes as the test case; labels as masks or as one map."""
    for case in ("s0000", "s0001"):
        (root / case / "segmentations").mkdir(parents=True)
        sitk.WriteImage(scan, str(root / case / "ct.nii.gz"))
        if not masks:
            sitk.WriteImage(labels, str(root / case / "label.nii.gz"))
            continue
        for name, number in IDS.items():
            sitk.WriteImage(labels == number, str(root / case / f"segmentations/{name}.nii.gz"))
    for path in (root / "s0001").rglob("*.nii.gz"):
        image, ornt = nib.load(path), nib.orientations
        change = ornt.ornt_transform(ornt.io_orientation(image.affine), ornt.axcodes2ornt(codes))
        image = image.as_reoriented(change)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine), path)
    (root / "meta.csv").write_text("image_id;age;split\ns0000;60;train\ns0001;60;test\n")


def configure(path: Path, root: Path, name: str) -> dict:
    organs, spacing, patch, steps, _ = SCANS[name]
    options = {**OPTIONS, "labels": organs, "patch": patch, "steps_per_epoch": steps, "augment": NO_VIEWS}
    path.write_text(
        yaml.safe_dump(
            json.loads(
                json.dumps(
                    {
                        "datasets": {
                            "real": {"kind": "totalsegmentator", "root": str(root), "spacing_mm": spacing},
                        },
                        "encoders": {"random": {"options": {"init_filters": 8, "blocks_down": [1, 1, 1, 1, 1]}}},
                        "tasks": {"organs": {"kind": "segment", "dataset": "real", "options": options}},
                        "machine": {"loader_workers": 0, "tensorboard": False},
                    }
                )
            )
        )
    )
    return {"config": [path]}


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize("name", SCANS)
def test_a_real_scan_is_learnt_by_heart(name, shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0, "tensorboard": false}')
    torch.set_num_threads(1)
    organs, *_, codes = SCANS[name]
    scan, labels = pair(shared_data, name)
    write_data_set(tmp_path / "data", scan, labels, codes, masks=name == "abdomen_3mm")
    job = configure(tmp_path / "config.yaml", tmp_path / "data", name)
    datasets(out=tmp_path / "cases", dataset="real", **job)
    import_weights(out=tmp_path / "random", encoder="random", **job)
    cases, run = tmp_path / "cases/cases.parquet", {"task": "organs", **job}
    adapt(encoder=tmp_path / "random", cases=cases, out=tmp_path / "adapted", **run)
    measured = {"encoder": "random", "shots": "all", "seed": 0, **run}
    evaluate(cases=cases, adapted=tmp_path / "adapted", out=tmp_path / "organs.parquet", **measured)
    rows = tables.read("metrics", tmp_path / "organs.parquet").query("metric == 'dice'")
    scores = rows.set_index("label")["value"]
    print(scores)

    source = tmp_path / "own.nii.gz"
    sitk.WriteImage(scan, str(source))
    dicom = shared_data / "dicom" / name
    predict([dicom if dicom.is_dir() else source], model=tmp_path / "adapted", out=tmp_path / "out")
    found = sitk.ReadImage(str(next((tmp_path / "out").glob("*.nii.gz"))))
    found = sitk.GetArrayFromImage(sitk.Resample(found, labels, sitk.Transform(), sitk.sitkNearestNeighbor))
    truth = sitk.GetArrayFromImage(labels)
    own = {organ: dice(found == IDS[organ], truth == IDS[organ]) for organ in organs}
    print(own)
    assert set(scores.index) == set(organs)
    assert scores.min() > 0.9
    assert min(own.values()) > 0.9
