from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from ctfm import files, plugins, tables
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.phantom import msd
from ctfm.phantom.cases import cases
from ctfm.stages.datasets import datasets, fetch_dataset
from tests.makers import write_totalsegmentator

SPLITS = {"s0000": "train", "s0001": "train", "s0002": "val", "s0003": "test", "s0004": "train"}


def spec(root, split="official", spacing=(3, 3, 3)):
    settings = {"kind": "totalsegmentator", "root": str(root), "split": split, "spacing_mm": spacing}
    return json.dumps({"stage": "datasets", "version": 1, "name": "ts", "dataset": settings})


@pytest.fixture
def data(tmp_path):
    write_totalsegmentator(tmp_path / "data", SPLITS)
    return tmp_path / "data"


def test_cases_are_stored_and_bad_ones_told(data, tmp_path):
    (data / "s0001/ct.nii.gz").write_bytes(b"torn")
    (data / "s0004/segmentations/liver.nii.gz").rename(data / "s0004/segmentations/hepar.nii.gz")
    datasets(out=tmp_path / "out", spec=spec(data))
    table = tables.read("cases", tmp_path / "out/cases.parquet").set_index("case")
    assert table["split"].to_dict() == {"s0000": "train", "s0001": "", "s0002": "val", "s0003": "test", "s0004": ""}
    assert table.loc["s0001", "reason"] == "unreadable"
    assert table.loc["s0004", "reason"] == "unknown_label" and "hepar" in table.loc["s0004", "detail"]
    good = table[table["status"] == "ok"]
    assert set(good.index) == {"s0000", "s0002", "s0003"}
    for _, row in good.iterrows():
        assert store.open_volume(tmp_path / "out" / row["image"]).shape == tuple(row["shape"])
        assert store.open_volume(tmp_path / "out" / row["label"]).shape == tuple(row["shape"])
        assert list(row["labels"]) == ["spleen", "liver", "aorta"]
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["cases"] == {"train": 1, "val": 1, "test": 1} and run["excluded"] == 2
    assert "ctfm.datasets.totalsegmentator" in run["code"] and "ctfm.imaging.labels" in run["code"]
    assert str(tmp_path) not in (tmp_path / "out/cases.parquet").read_bytes().decode("latin1")


def test_a_second_run_reads_nothing_again(data, tmp_path, monkeypatch):
    datasets(out=tmp_path / "out", spec=spec(data))
    first = pd.read_parquet(tmp_path / "out/cases.parquet")
    monkeypatch.setattr("ctfm.imaging.labelled.read_image", None)
    datasets(out=tmp_path / "out", spec=spec(data))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out/cases.parquet"), first)


def test_several_processes_make_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 2}')
    monkeypatch.setattr("ctfm.stages.datasets.CASES_PER_WORKER", 1)
    datasets(out=tmp_path / "two", spec=spec(data))
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')
    datasets(out=tmp_path / "one", spec=spec(data))
    two, one = (pd.read_parquet(tmp_path / name / "cases.parquet") for name in ("two", "one"))
    pd.testing.assert_frame_equal(two, one)
    assert (tmp_path / "two/volumes/s0000.b2nd").read_bytes() == (tmp_path / "one/volumes/s0000.b2nd").read_bytes()


def test_a_list_of_ones_own_takes_the_place_of_the_official_split(data, tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("case,split\ns0003,train\ns0000,val\ns0001,test\n")
    datasets(out=tmp_path / "out", spec=spec(data, str(mine)))
    table = pd.read_parquet(tmp_path / "out/cases.parquet").set_index("case")
    assert table.loc[["s0003", "s0000", "s0001"], "split"].tolist() == ["train", "val", "test"]
    assert table.loc["s0002", ["status", "reason"]].tolist() == ["excluded", "not_in_split"]
    assert json.loads((tmp_path / "out/run.json").read_text())["lists"] == {"splits": files.sha256(mine)}
    mine.write_text("case,split\ns0003,train\ns0099,test\n")
    with pytest.raises(UserError, match=r"mine.csv: 1 of its 2 cases are not in .*: s0099; complete the data set"):
        datasets(out=tmp_path / "out", spec=spec(data, str(mine)))


def test_missing_and_empty_masks_are_told(data, tmp_path):
    (data / "s0001/segmentations/liver.nii.gz").unlink()
    liver = nib.load(data / "s0002/segmentations/liver.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(liver.shape, np.uint8), liver.affine), data / "s0002/segmentations/liver.nii.gz")
    datasets(out=tmp_path / "out", spec=spec(data))
    table = pd.read_parquet(tmp_path / "out/cases.parquet").set_index("case")
    assert table.loc["s0001", "reason"] == "missing_mask" and "mask of liver;" in table.loc["s0001", "detail"]
    assert table.loc["s0002", "status"] == "ok" and list(table.loc["s0002", "empty"]) == ["liver"]
    assert list(table.loc["s0000", "empty"]) == [] and table.loc["s0000", "overlap_voxels"] > 0


def test_structures_without_a_mask_in_any_case_are_left_out(data, tmp_path):
    for case in SPLITS:
        (data / case / "segmentations/liver.nii.gz").unlink()
    datasets(out=tmp_path / "out", spec=spec(data))
    table = pd.read_parquet(tmp_path / "out/cases.parquet")
    assert (table["status"] == "ok").all()
    meta = store.open_volume(tmp_path / "out/volumes/s0000_label.b2nd").meta
    assert set(meta["ids"]) == set(meta["groups"]) == {"spleen", "aorta"}


def test_no_usable_case_is_an_error(data, tmp_path):
    for case in SPLITS:
        (data / case / "ct.nii.gz").unlink()
    with pytest.raises(UserError, match=r"none of 5 cases is usable.*missing_image"):
        datasets(out=tmp_path / "out", spec=spec(data))
    with pytest.raises(UserError, match="no such folder"):
        datasets(out=tmp_path / "out", spec=spec(tmp_path / "nowhere"))


def test_a_data_set_that_is_there_is_not_fetched(data, tmp_path, monkeypatch):
    fetch_dataset(out=tmp_path / "out", spec=spec(data))
    told = json.loads((tmp_path / "out/source.json").read_text())
    assert told["fetched"] is False and told["version"] == "2.0.1"
    plugin = plugins.get("datasets", "totalsegmentator")
    monkeypatch.setitem(plugin.SOURCE, "checksum", None)
    with pytest.raises(UserError, match=f"can't be fetched: get it from {plugin.SOURCE['url']}"):
        fetch_dataset(out=tmp_path / "out", spec=spec(data))


def test_the_real_abdomen(shared_data, tmp_path):
    """A real scan with a merged map of ids, shared by three cases."""
    root = tmp_path / "data"
    for case in ("s0000", "s0001", "s0002"):
        (root / case).mkdir(parents=True)
        for old, new in (("abdomen_3mm", "ct"), ("abdomen_3mm_totalsegmentator_labels", "label")):
            (root / case / f"{new}.nii.gz").symlink_to(shared_data / "nifti" / f"{old}.nii.gz")
    (root / "meta.csv").write_text("image_id;split\ns0000;train\ns0001;val\ns0002;test\n")
    datasets(out=tmp_path / "out", spec=spec(root))
    table = pd.read_parquet(tmp_path / "out/cases.parquet")
    assert (table["status"] == "ok").all()
    assert len(table["labels"][0]) == 41 and "liver" in table["labels"][0]


def test_the_decathlon_is_stored_on_its_own_grids_or_refused(tmp_path):
    msd.write(tmp_path / "data", cases(0, 4, 12.0))
    (tmp_path / "data/imagesTr/liver_1.nii.gz").write_bytes(b"torn")
    settings = {"kind": "msd_task03_liver", "root": str(tmp_path / "data"), "spacing_mm": None}
    job = {"stage": "datasets", "version": 1, "name": "d", "dataset": settings}
    datasets(out=tmp_path / "out", spec=json.dumps(job))
    table = tables.read("cases", tmp_path / "out/cases.parquet").set_index("case")
    assert table.loc["liver_1", "reason"] == "unreadable" and (table.status == "ok").sum() == 3
    for name in table.index[table.status == "ok"]:
        image = nib.load(tmp_path / f"data/imagesTr/{name}.nii.gz")
        assert table.loc[name, "spacing"] == pytest.approx(image.header.get_zooms()[::-1], rel=1e-5)
        assert list(table.loc[name, "shape"]) == list(image.shape[::-1])
    settings["split"] = "paper"
    with pytest.raises(UserError, match=r"msd_task03_liver_paper\.csv: 127 of its 131 cases are not in .*: liver_10, "):
        datasets(out=tmp_path / "out", spec=json.dumps(job))
    (tmp_path / "data/labelsTr/liver_2.nii.gz").unlink()
    with pytest.raises(UserError, match=r"1 files are missing: labelsTr/liver_2\.nii\.gz"):
        datasets(out=tmp_path / "out", spec=json.dumps(job))
