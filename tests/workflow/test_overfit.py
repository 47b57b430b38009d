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

from ctfm import plugins, tables
from ctfm.imaging.preprocess import Preprocess
from ctfm.stages.adapt import adapt, predict
from ctfm.stages.datasets import datasets
from ctfm.stages.evaluate import evaluate
from ctfm.training import seeds
from ctfm.weights import save_encoder

pytestmark = pytest.mark.workflow

IDS = plugins.get("datasets", "totalsegmentator").LABELS
LARGE = ("liver", "spleen")  # more than 200 ml in both scans
ORGANS = (*LARGE, "stomach")
SCANS = {  # spacing (z, y, x), mm; where the copy's axes run; window and batch; steps in each of four epochs
    "abdomen_3mm": ((3, 4, 4), "PIR", {"patch": (32, 48, 48), "batch": 2, "steps_per_epoch": 36}),
    "trunk_jpeg2000": ((2, 4, 4), "ASL", {"patch": (16, 48, 48), "batch": 4, "steps_per_epoch": 30}),
}
SMALL = {"init_filters": 8, "blocks_down": (1, 1, 1, 1, 1)}
OPTIONS = {
    "labels": ORGANS,
    "epochs": 4,
    "learning_rate": 3e-3,
    "warmup_epochs": 0.3,
    "overlap": 0.5,
    "augment": dict.fromkeys(("affine_p", "smooth_p", "intensity_p", "shift_p", "noise_p"), 0.0),  # no random views
}


def pair(data: Path, name: str) -> tuple[sitk.Image, sitk.Image]:
    """Return CT and labels on one grid, read by SimpleITK."""
    labels = sitk.ReadImage(str(data / f"nifti/{name}_totalsegmentator_labels.nii.gz"))
    if (data / f"nifti/{name}.nii.gz").exists():
        return sitk.ReadImage(str(data / f"nifti/{name}.nii.gz")), labels
    scan = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(data / "dicom" / name)))
    return scan, sitk.Resample(labels, scan, sitk.Transform(), sitk.sitkNearestNeighbor)


def write_data_set(root: Path, scan: sitk.Image, labels: sitk.Image, codes: str, masks: bool) -> None:
    """Write the scan as a training case, and with other axes as the test case; labels as masks or as one map."""
    for case in ("s0000", "s0001"):
        (root / case / "segmentations").mkdir(parents=True)
        sitk.WriteImage(scan, str(root / case / "ct.nii.gz"))
        if not masks:
            sitk.WriteImage(labels, str(root / case / "label.nii.gz"))
        for name in ORGANS if masks else ():
            sitk.WriteImage(labels == IDS[name], str(root / case / f"segmentations/{name}.nii.gz"))
    for path in (root / "s0001").rglob("*.nii.gz"):
        image, ornt = nib.load(path), nib.orientations
        change = ornt.ornt_transform(ornt.io_orientation(image.affine), ornt.axcodes2ornt(codes))
        turned = image.as_reoriented(change)
        nib.save(nib.Nifti1Image(np.asanyarray(turned.dataobj), turned.affine), path)
    (root / "meta.csv").write_text("image_id;age;split\ns0000;60;train\ns0001;60;test\n")


def write_encoder(folder: Path) -> Path:
    """Write a small encoder with random weights, which looks at soft tissue: that is learnt faster."""
    plugin = plugins.get("encoders", "segresnet")
    with seeds.seeded(0):
        state = plugin.build(plugin.Settings(**SMALL)).state_dict()
    window = Preprocess(hu_window=(-150, 250))
    save_encoder(folder, name="small", kind="segresnet", options=SMALL, state=state, facts={}, preprocess=window)
    return folder


def spec(stage: str, name: str, **settings: object) -> dict[str, str]:
    options = {**OPTIONS, **SCANS[name][2]}
    task = {"name": "organs", "kind": "segment", "dataset": "real", "few_shot": "random", "options": options}
    job = {"stage": stage, "version": 1, "name": "real", "task": task, "encoder": "small", "shots": "all", "seed": 0}
    return {"spec": json.dumps({**job, **settings})}


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize("name", SCANS)
def test_a_real_scan_is_learnt_by_heart(name, shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0, "tensorboard": false}')
    torch.set_num_threads(1)
    spacing, codes, _ = SCANS[name]
    scan, labels = pair(shared_data, name)
    write_data_set(tmp_path / "data", scan, labels, codes, masks=name == "abdomen_3mm")
    settings = {"kind": "totalsegmentator", "root": str(tmp_path / "data"), "spacing_mm": spacing}
    datasets(out=tmp_path / "cases", **spec("datasets", name, dataset=settings))
    cases, adapted = tmp_path / "cases/cases.parquet", tmp_path / "adapted"
    adapt(encoder=write_encoder(tmp_path / "small"), cases=cases, out=adapted, **spec("adapt", name))
    evaluate(cases=cases, adapted=adapted, out=tmp_path / "organs.parquet", **spec("evaluate", name))
    rows = tables.read("metrics", tmp_path / "organs.parquet").query("metric == 'dice'")
    copy = rows.set_index("label")["value"].to_dict()

    sitk.WriteImage(scan, str(tmp_path / f"{name}.nii.gz"))
    dicom = shared_data / "dicom" / name
    predict([dicom if dicom.is_dir() else tmp_path / f"{name}.nii.gz"], model=adapted, out=tmp_path / "out")
    found = sitk.ReadImage(str(tmp_path / f"out/{name}.nii.gz"))
    ids = sitk.GetArrayFromImage(sitk.Resample(found, labels, sitk.Transform(), sitk.sitkNearestNeighbor))
    truth = sitk.GetArrayFromImage(labels)
    own = {organ: float(dice(ids == IDS[organ], truth == IDS[organ])) for organ in ORGANS}
    print(name, {"copy, stored": copy, "scan itself, own grid": own})
    for scores in (copy, own):
        assert set(scores) == set(ORGANS)
        assert min(scores[organ] for organ in LARGE) > 0.9
        assert scores["stomach"] > 0.85
