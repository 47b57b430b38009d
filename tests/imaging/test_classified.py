"""Scans with findings: stored once, with what was undone to them; what can't be used says why."""

from __future__ import annotations

import numpy as np
import pytest

from ctfm.errors import Quarantine
from ctfm.imaging import classified, scans, store
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import orient
from ctfm.phantom import head, head_series, sinoct
from tests.phantom.test_head import person

TABLE = {"ids": {"abnormal": 1}, "groups": {"abnormal": "all"}}


def keep(image, out, findings=("abnormal",), spacing=(5.0, 4.0, 4.0)):
    return classified.keep("h1", image, findings, TABLE, spacing, out)


def test_a_volume_is_stored_with_its_findings(tmp_path):
    sinoct.write_nrrd(tmp_path / "in/scan.nrrd", head.scan(person()))
    row = keep(tmp_path / "in/scan.nrrd", tmp_path / "volumes")
    stored = store.open_volume(tmp_path / "volumes/h1.b2nd")
    expected = resample(orient(scans.read(tmp_path / "in/scan.nrrd")[0]), (5.0, 4.0, 4.0))
    assert np.array_equal(stored.load().array, expected.array)
    assert row["shape"] == list(stored.shape) and row["spacing"] == [5, 4, 4]
    assert (row["labels"], row["empty"], row["detail"]) == (["abnormal"], [], "")
    assert row["label"] == "volumes/h1.b2nd"
    assert stored.meta["findings"] == ["abnormal"] and stored.meta["ids"] == {"abnormal": 1}
    start, stop = np.array(stored.meta["body_box"])
    assert (start >= 0).all() and (start < stop).all() and (stop <= stored.shape).all()


@pytest.mark.parametrize(
    ("form", "detail"),
    [("tilted", "undone: a tilt of 14.0 degrees"), ("uneven", "undone: uneven slice distances"), ("plain", "")],
)
def test_what_was_undone_is_told(tmp_path, form, detail):
    head_series.write(tmp_path / "in", person(form), "x")
    row = keep(tmp_path / "in", tmp_path, findings=())
    assert (row["labels"], row["empty"], row["detail"]) == ([], ["abnormal"], detail)


def test_a_stored_case_is_used_again_until_files_or_findings_change(tmp_path, monkeypatch):
    head_series.write(tmp_path / "in", person(), "x")
    first = keep(tmp_path / "in", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(scans, "read", None)
        assert keep(tmp_path / "in", tmp_path) == first
    assert keep(tmp_path / "in", tmp_path, findings=())["labels"] == []
    assert store.open_volume(tmp_path / "h1.b2nd").meta["findings"] == []
    (tmp_path / "in/0007.dcm").unlink()
    with pytest.raises(Quarantine, match="missing_slice"):
        keep(tmp_path / "in", tmp_path, findings=())


def test_what_cannot_be_used_says_why(tmp_path, monkeypatch):
    sinoct.write_nrrd(tmp_path / "torn.nrrd", head.scan(person()), whole=False)
    for image, code in ((tmp_path / "torn.nrrd", "unreadable"), (tmp_path / "absent.nrrd", "missing_image")):
        with pytest.raises(Quarantine, match=code):
            keep(image, tmp_path)
    with pytest.raises(Quarantine, match="no_label"):
        keep(tmp_path / "torn.nrrd", tmp_path, findings=None)
    monkeypatch.setattr(scans, "read", lambda path: 1 / 0)
    with pytest.raises(Quarantine, match="error: ZeroDivisionError"):
        keep(tmp_path / "torn.nrrd", tmp_path)


def test_real_head_ct_is_kept_and_what_is_none_is_not(shared_data, tmp_path):
    folder, undone = shared_data / "dicom", {}
    for name in ("head_axial_5mm", "head_tilt_stereotaxis", "head_tilt_uneven_spacing"):
        row = keep(folder / name, tmp_path)
        undone[name] = row["detail"]
        hu = store.open_volume(tmp_path / "h1.b2nd").load().array
        assert row["spacing"] == [5, 4, 4] and 0.04 < (hu > -500).mean() < 0.7
    assert undone == {
        "head_axial_5mm": "",
        "head_tilt_stereotaxis": "undone: a tilt of 18.5 degrees",
        "head_tilt_uneven_spacing": "undone: a tilt of 18.5 degrees and uneven slice distances",
    }
    for name, code in (("localizer", "localizer"), ("mr_not_ct", "not_ct"), ("exam_summary", "derived")):
        with pytest.raises(Quarantine, match=code):
            keep(folder / name, tmp_path)
