"""Data sets whose scans are ranked in cohorts: OrganMNIST3D and 3D-MIR, read as published."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from ctfm import plugins
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume, write_nifti
from ctfm.stages.datasets import datasets

SIZES = {"train": 5, "val": 2, "test": 3}
MIR = {"sheets": {"liver": "01_liver", "colon": "02_colon", "pancreas": "03_pancreas", "lung": "04_lung"}}


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')


def spec(kind, root):
    entry = {"kind": kind, "root": str(root), "spacing_mm": [3.0, 1.0, 1.0]}
    return json.dumps({"stage": "datasets", "version": 1, "dataset": entry, "name": "d"})


def organmnist(root, edge=28, **changes):
    """Write random cubes as the package does; return the arrays."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in SIZES.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (n, edge, edge, edge), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(n, dtype=np.uint8)[:, None]
    arrays |= changes
    root.mkdir(exist_ok=True)
    path = root / ("organmnist3d.npz" if edge == 28 else f"organmnist3d_{edge}.npz")
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if value is not None})
    path.with_name(path.name + ".md5").write_text(hashlib.md5(path.read_bytes()).hexdigest())
    return arrays


@pytest.mark.parametrize(("kind", "edge"), [("organmnist3d", 28), ("organmnist3d_64", 64)])
def test_cubes_are_stored_as_they_are_with_their_axes_turned_round(kind, edge, tmp_path):
    arrays = organmnist(tmp_path / "data", edge)
    datasets(out=tmp_path / "out", spec=spec(kind, tmp_path / "data"))
    table = pd.read_parquet(tmp_path / "out/cases.parquet").set_index("case")
    assert table["split"].value_counts().to_dict() == SIZES and (table["status"] == "ok").all()
    assert table.loc["test_0001", "labels"].tolist() == ["kidney-right"] and table["patient"].is_unique
    stored = store.open_volume(tmp_path / "out" / table.loc["test_0001", "image"])
    assert np.array_equal(stored.load().array, np.transpose(arrays["test_images"], (0, 3, 2, 1))[1])
    assert stored.meta["intensity"] == "unit"
    assert stored.meta["cohorts"] == {"all": {"query": True, "attributes": {"organ": "kidney-right"}}}
    roles = [store.open_volume(tmp_path / "out" / image).meta["cohorts"]["all"]["query"] for image in table["image"]]
    assert roles == [split != "train" for split in table["split"]]


def test_unpacked_arrays_are_read_too(tmp_path):
    arrays = organmnist(tmp_path / "packed")
    (tmp_path / "data").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "data" / f"{name}.npy", array)
    plugin = plugins.get("datasets", "organmnist3d")
    plugin.check(tmp_path / "data")
    assert [c.case for c in plugin.cases(tmp_path / "data")] == [c.case for c in plugin.cases(tmp_path / "packed")]


def test_cubes_that_cannot_be_used_are_listed(tmp_path):
    images = organmnist(tmp_path / "data")["train_images"].copy()
    images[1] = 7
    labels = np.array([[0], [1], [11], [3], [4]], np.uint8)
    organmnist(tmp_path / "data", train_images=images, train_labels=labels)
    datasets(out=tmp_path / "out", spec=spec("organmnist3d", tmp_path / "data"))
    table = pd.read_parquet(tmp_path / "out/cases.parquet").set_index("case")
    assert table.loc[["train_0001", "train_0002"], "reason"].tolist() == ["empty_image", "no_label"]
    assert (table["status"] == "ok").sum() == 8


def test_the_checksum_is_the_published_one_or_the_files_own(tmp_path):
    organmnist(tmp_path)
    plugin = plugins.get("datasets", "organmnist3d")
    plugin.check(tmp_path)
    (tmp_path / "organmnist3d.npz.md5").unlink()
    with pytest.raises(UserError, match="not a0c5a1ff56af4f155c46d46fbb45a2fe; fetch it anew"):
        plugin.check(tmp_path)
    (tmp_path / "organmnist3d.npz.md5").write_text("\n")
    with pytest.raises(UserError, match="fetch it anew"):
        plugin.check(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"val_images": None}, "'val_images' is missing or damaged"),
        ({"val_images": np.zeros((2, 28, 28, 3), np.uint8)}, r"must be uint8 of \(n, 28, 28, 28\)"),
        ({"val_images": np.zeros((2, 28, 28, 28))}, "found float64"),
        ({"val_labels": np.zeros((1, 1), np.uint8)}, r"labels of \(1, 1\)"),
        ({"val_labels": np.array([None, None])}, "'val_labels' is missing or damaged"),
    ],
)
def test_other_arrays_are_told(change, words, tmp_path):
    organmnist(tmp_path, **change)
    with pytest.raises(UserError, match=words):
        plugins.get("datasets", "organmnist3d").check(tmp_path)


def mir(root, sheets=None, lists=None):
    """Write the tables of 3D-MIR where its repository has them, and four scans."""
    given = {
        "liver": [("liver_1.nii.gz", 1, 3.0), ("liver_2.nii.gz", 0, None), ("lung_001.nii.gz", 0, "  ")],
        "colon": [("liver_1.nii.gz", 0, None)],
        "pancreas": [],
        "lung": [("lung_001.nii.gz", 1, "small")],
    } | (sheets or {})
    parts = {
        "liver": (["liver_1.nii.gz"], ["liver_2.nii.gz", "lung_001.nii.gz"]),
        "colon": ([], ["liver_1.nii.gz"]),
        "pancreas": ([], []),
        "lung": (["lung_001.nii.gz", "liver_9.nii.gz"], []),
    } | (lists or {})
    (root / "Data/Data_Splits").mkdir(parents=True)
    (root / "Task03_Liver/imagesTr").mkdir(parents=True)
    with pd.ExcelWriter(root / "2025.01.01.3D_MSD_Annotations.xlsx") as book:
        for cohort, rows in given.items():
            columns = ["file_name", f"{cohort}_cancer_flag", f"{cohort}_lesion_group"]
            pd.DataFrame(rows, columns=columns).to_excel(book, sheet_name=MIR["sheets"][cohort], index=False)
    for cohort, (train, test) in parts.items():
        for part, names in (("train", train), ("test", test)):
            table = pd.DataFrame({f"{part}ing": names})
            table.to_csv(root / f"Data/Data_Splits/{cohort}_full_{part}_split.csv", index=cohort == "colon")
    rng = np.random.default_rng(0)
    for name in ("liver_1", "liver_2", "lung_001"):
        volume = Volume(rng.integers(-100, 100, (8, 20, 20)).astype(np.int16), np.diag([5.0, 2, 2, 1])[[2, 1, 0, 3]])
        write_nifti(volume, root / f"Task03_Liver/imagesTr/{name}.nii.gz")
    return root


def test_a_scan_can_ask_in_one_cohort_and_answer_in_another(tmp_path):
    found = {case.case: case for case in plugins.get("datasets", "mir3d").cases(mir(tmp_path / "data"))}
    flag = lambda a, b: {"lesion_flag": a, "lesion_group": b}  # noqa: E731
    assert found["liver_1"].cohorts == {
        "liver": {"query": False, "attributes": flag("1", "3")},
        "colon": {"query": True, "attributes": flag("0", None)},
    }
    assert found["lung_001"].cohorts["liver"]["attributes"] == flag("0", None)
    assert found["lung_001"].cohorts["lung"] == {"query": False, "attributes": flag("1", "small")}
    assert found["liver_9"].cohorts == {"lung": {"query": False, "attributes": flag(None, None)}}  # on no sheet
    assert {name: case.split for name, case in found.items()} == {
        "liver_1": "test",
        "liver_2": "test",
        "liver_9": "train",
        "lung_001": "test",
    }


def test_scans_are_stored_with_what_is_known_of_them_and_missing_ones_are_listed(tmp_path):
    datasets(out=tmp_path / "out", spec=spec("mir3d", mir(tmp_path / "data")))
    table = pd.read_parquet(tmp_path / "out/cases.parquet").set_index("case")
    assert table.loc["liver_9", "reason"] == "missing_image" and (table["status"] == "ok").sum() == 3
    stored = store.open_volume(tmp_path / "out" / table.loc["liver_1", "label"])
    assert stored.load().spacing == (3, 1, 1) and stored.meta["cohorts"]["liver"]["attributes"]["lesion_flag"] == "1"
    assert table.loc["liver_1", "spacing"].tolist() == [3, 1, 1] and table.loc["liver_1", "shape"].tolist() == [
        13,
        40,
        40,
    ]
    before = (tmp_path / "out/volumes/liver_1.b2nd").stat().st_mtime_ns
    datasets(out=tmp_path / "out", spec=spec("mir3d", tmp_path / "data"))
    assert (tmp_path / "out/volumes/liver_1.b2nd").stat().st_mtime_ns == before


def test_wrong_tables_are_told(tmp_path):
    check = plugins.get("datasets", "mir3d").check
    with pytest.raises(UserError, match=r"'liver_1' asks and is in its own corpus too; mend the lists of 'liver'"):
        check(mir(tmp_path / "a", lists={"liver": (["liver_1.nii.gz"], ["liver_1.nii.gz"])}))
    root = mir(tmp_path / "b")
    (root / "Data/Data_Splits/lung_full_test_split.csv").write_text("name\nlung_1\n")
    with pytest.raises(UserError, match=r"lung_full_test_split.csv: lacks the column 'testing'"):
        check(root)
    (root / "Data/Data_Splits/lung_full_test_split.csv").unlink()
    with pytest.raises(UserError, match=r"lung_test_split.csv: no such file"):
        check(root)
    book = next(mir(tmp_path / "c").glob("*.xlsx"))
    pd.DataFrame({"file_name": []}).to_excel(book, sheet_name="01_liver")
    with pytest.raises(UserError, match=r"'01_liver' lacks liver_cancer_flag, liver_lesion_group"):
        check(tmp_path / "c")
    book.write_bytes(b"torn")
    with pytest.raises(UserError, match="can't read sheet '01_liver'"):
        check(tmp_path / "c")
