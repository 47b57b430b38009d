from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from ctfm import files, tables
from ctfm.config import Criteria, Prepare
from ctfm.errors import UserError
from ctfm.imaging import convert, store
from ctfm.imaging.dicom import read_series
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import orient
from ctfm.stages import prepare as stage
from tests.imaging import dicom_maker as maker

ANY = Criteria(min_instances=1, thickness_mm=None)
JOB = {
    "stage": "prepare",
    "version": 1,
    "prepare": Prepare().model_dump(mode="json"),
    "criteria": ANY.model_dump(mode="json"),
}
GOOD = ("1.2.10", "1.2.11", "1.2.12")
SHAPE = (20, 32, 40)


def localizer(file: pydicom.Dataset, _: int) -> None:
    file.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def corpus(folder: Path) -> Path:
    """Write three good series, one scout and one whose files are missing; return the table of series."""
    for i, uid in enumerate(GOOD):
        maker.write(folder / "dicom" / uid, maker.body(SHAPE, i), seed=uid)
    maker.write(folder / "dicom" / "1.2.20", maker.body((1, 40, 300)), change=localizer)
    uids = [*GOOD, "1.2.20", "1.2.30"]
    return series_table(folder, dict.fromkeys(uids, 0))


def series_table(folder: Path, shards: dict[str, int]) -> Path:
    rows = []
    for uid, shard in shards.items():
        found = list((folder / "dicom" / uid).glob("*"))
        rows.append(
            {
                "SeriesInstanceUID": uid,
                "StudyInstanceUID": "1.2",
                "PatientID": f"p{uid}",
                "collection_id": "phantoms",
                "num_instances": len(found) or 5,
                "series_size_MB": sum(f.stat().st_size for f in found) / 1e6 or 1.0,
                "series_aws_url": f"file:dicom/{uid}/*",
                "license": "CC0",
                "shard": shard,
            }
        )
    tables.write(tables.of("series", rows), "series", folder / "series.parquet")
    return folder / "series.parquet"


def run(out: str = "volumes", shard: int = 0, criteria: Criteria = ANY, **changes: object) -> pd.DataFrame:
    job = JOB | {"prepare": JOB["prepare"] | changes, "criteria": criteria.model_dump(mode="json")}
    stage.prepare(Path("series.parquet"), shard, Path(out), spec=json.dumps(job))
    return tables.read("volumes", Path(out) / f"shard={shard:05d}" / "index.parquet").set_index("SeriesInstanceUID")


def index(out: str = "volumes", shards: int | None = None, job: dict = JOB) -> pd.DataFrame:
    chosen = tables.of("funnel", [{"step": "chosen", "series": 5, "studies": 1, "patients": 5}])
    tables.write(chosen, "funnel", "funnel.parquet")
    found = len(list(Path(out).glob("shard=*/index.parquet")))
    stage.index(shards or found, Path(out), Path("funnel.parquet"), spec=json.dumps(job))
    return tables.read("volumes", Path(out) / "index.parquet")


def content(out: str = "volumes") -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in Path(out).rglob("*.b2nd")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path)
    return tmp_path


def test_every_series_ends_as_volume_or_with_a_reason(here: Path) -> None:
    table = run()
    assert table["status"].to_dict() == dict.fromkeys(GOOD, "ok") | dict.fromkeys(["1.2.20", "1.2.30"], "quarantined")
    assert table["reason"].tolist() == ["", "", "", "localizer", "download_missing"]
    assert "none of 5 files" in table.loc["1.2.30", "detail"]
    made = sorted(str(p.relative_to("volumes/shard=00000")) for p in Path("volumes").rglob("*") if p.is_file())
    assert made == [*(f"{uid}.b2nd" for uid in GOOD), "cross_checks.parquet", "index.parquet", "thumbnails/1.2.20.png"]
    assert tables.facts("volumes/shard=00000/index.parquet")["code"].keys() >= {
        "ctfm.imaging.dicom",
        "ctfm.stages.prepare",
    }


def test_a_file_that_can_not_be_read_costs_its_series_alone(here: Path) -> None:
    (here / "dicom" / GOOD[1] / "0003.dcm").unlink()
    (here / "dicom" / GOOD[1] / "0003.dcm").symlink_to("/proc/self/mem")  # reading it fails as a bad disk does
    table = run()
    assert table["status"][[GOOD[0], GOOD[2]]].tolist() == ["ok", "ok"]
    assert table.loc[GOOD[1], "reason"] == "download_incomplete"


def test_no_picture_is_no_reason_to_stop(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(convert.decoding, "preview", fail)
    assert run()["reason"].tolist() == ["", "", "", "localizer", "download_missing"]


def test_volume_is_the_series_on_the_final_grid(here: Path) -> None:
    row = run().loc[GOOD[1]]
    stored = store.open_volume(Path("volumes") / row["path"])
    volume, _ = read_series(Path("dicom") / GOOD[1], Prepare(), ANY)
    expected = resample(orient(volume), (3.0, 1.0, 1.0))
    assert (stored.load().array == expected.array).all()
    np.testing.assert_allclose(stored.affine, expected.affine)
    assert list(row["shape"]) == list(expected.shape) and list(row["spacing_out"]) == [3, 1, 1]
    assert list(row["spacing_in"]) == pytest.approx([2.0, 0.8, 0.9])
    points = np.percentile(expected.array, convert.PERCENTILES, method="inverted_cdf")
    assert list(row["hu_percentiles"]) == points.tolist()
    assert row["sha256"] == files.sha256(Path("volumes") / row["path"])
    start, stop = stored.meta["body_box"]
    assert (tuple(start), tuple(stop)) == store.body_box(expected.array)
    text = json.dumps(stored.meta)
    assert str(here) not in text and "p1.2" not in text  # no path of this machine, nothing about the person


def test_finished_volumes_are_not_made_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    before = {p: p.stat().st_mtime_ns for p in Path("volumes").rglob("*.b2nd")}
    first = content()
    damaged = Path("volumes/shard=00000") / f"{GOOD[0]}.b2nd"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    (damaged.parent / ".half.1.tmp.b2nd").write_bytes(b"x")
    (damaged.parent / "9.9.b2nd").write_bytes(b"of an older selection")
    table = run()
    assert content() == first and (table["status"] == "ok").sum() == 3
    after = {p: p.stat().st_mtime_ns for p in Path("volumes").rglob("*.b2nd")}
    assert [p.stem for p in after if after[p] != before[p]] == [GOOD[0]]


def test_silent_damage_is_noticed(here: Path) -> None:
    run()
    first = content()
    damaged = Path("volumes/shard=00000") / f"{GOOD[0]}.b2nd"
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 0x55
    damaged.write_bytes(raw)
    run()
    assert content() == first


def test_other_settings_or_other_pixels_make_new_volumes(here: Path) -> None:
    first = run()
    second = run(spacing_mm=[2.0, 2.0, 2.0])
    assert list(second.loc[GOOD[0], "spacing_out"]) == [2, 2, 2]
    maker.write(here / "dicom" / GOOD[0], maker.body(SHAPE, 99), seed=GOOD[0])
    third = run()
    assert third.loc[GOOD[0], "sha256"] != first.loc[GOOD[0], "sha256"]
    assert third.loc[GOOD[1], "sha256"] == first.loc[GOOD[1], "sha256"]


def test_dicom_is_deleted_or_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    assert not Path("volumes/shard=00000/.dicom").exists()
    assert len(list((here / "dicom" / GOOD[0]).iterdir())) == SHAPE[0]  # the user's own files stay
    monkeypatch.setenv("CTFM_MACHINE", json.dumps({"keep_dicom": True}))
    run("kept")
    assert len(list(Path("kept/shard=00000/.dicom").glob(f"{GOOD[0]}/*"))) == SHAPE[0]


def test_few_series_lie_on_disk_at_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.intake, "BATCH", 1)
    seen = []
    original = convert.convert

    def watch(folder: Path, *rest: object) -> object:
        seen.append(len([p for p in folder.parent.iterdir() if p.is_dir()]))
        return original(folder, *rest)

    monkeypatch.setattr(convert, "convert", watch)
    assert (run()["status"] == "ok").sum() == 3
    assert max(seen) <= 2


def test_unexpected_fault_of_one_series_stops_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = convert.converters.read

    def fail(folder: Path, *rest: object) -> object:
        if folder.name == GOOD[0]:
            raise ZeroDivisionError("odd header")
        return original(folder, *rest)

    monkeypatch.setattr(convert.converters, "read", fail)
    table = run()
    assert table.loc[GOOD[0], "reason"] == "error" and "ZeroDivisionError: odd header" in table.loc[GOOD[0], "detail"]
    assert (table["status"] == "ok").sum() == 2


def test_memory_and_disk_faults_are_not_blamed_on_a_series(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "save", full)
        with pytest.raises(UserError, match="No space left"):
            run()

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(convert.converters, "read", exhausted)
    with pytest.raises(MemoryError):
        run()
    assert not Path("volumes/shard=00000/index.parquet").exists()


KILLED = """
import json, os, signal, sys
from pathlib import Path
from ctfm.stages import prepare as stage
from ctfm.imaging import convert, store
from ctfm import tables
owner, name, calls = {"convert": (convert, "convert"), "keep": (convert, "keep"),
                      "rename": (Path, "replace"), "table": (tables, "write")}[sys.argv[1]] + (int(sys.argv[2]),)
original, count = getattr(owner, name), 0
def die(*a, **k):
    global count
    count += not (name == "replace" and not str(a[0]).endswith(".b2nd"))
    if count == calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*a, **k)
setattr(owner, name, die)
stage.prepare(Path("series.parquet"), 0, Path("volumes"), spec=sys.argv[3])
"""


@pytest.mark.parametrize(("where", "calls"), [("convert", 2), ("rename", 2), ("table", 1)])
def test_killed_shard_goes_on_and_ends_the_same(here: Path, where: str, calls: int) -> None:
    run("whole")
    done = subprocess.run([sys.executable, "-c", KILLED, where, str(calls), json.dumps(JOB)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert not Path("volumes/shard=00000/index.parquet").exists()
    survived = {p: p.stat().st_mtime_ns for p in Path("volumes").glob("shard=*/[0-9]*.b2nd")}
    assert len(survived) == (3 if where == "table" else 1)
    run()
    assert content() == content("whole")
    assert all(p.stat().st_mtime_ns == old for p, old in survived.items())
    left = [p.name for p in Path("volumes/shard=00000").iterdir() if p.name.startswith(".")]
    assert left == []


def test_empty_shard_writes_an_empty_table(here: Path) -> None:
    assert run(shard=1).empty
    run()
    assert len(index()) == 5


def test_index_joins_shards(here: Path) -> None:
    series_table(here, {GOOD[0]: 1, GOOD[1]: 0, GOOD[2]: 1, "1.2.20": 0})
    run(shard=0), run(shard=1)
    table = index()
    assert table["SeriesInstanceUID"].tolist() == [GOOD[1], "1.2.20", GOOD[0], GOOD[2]]
    assert all((Path("volumes") / path).is_file() for path in table["path"].dropna())
    record = files.read_json("volumes/run.json")
    assert (record["series"], record["ok"], record["quarantined"]) == (4, 3, {"localizer": 1})
    good = table[table["status"] == "ok"]
    assert record["data"] == files.digest(sorted(zip(good["SeriesInstanceUID"], good["sha256"], strict=True)))
    assert record["spec"] == JOB and "ctfm.imaging.geometry" in record["code"]
    index()
    assert files.read_json("volumes/run.json")["data"] == record["data"]


def test_quality_page_holds_everything_in_itself(here: Path) -> None:
    run()
    index()
    page = Path("volumes/quality.html").read_text()
    assert "3 of 5 series are ready" in page
    assert all(text in page for text in ("localizer", "download_missing", "a scout image", "none of 5 files", *GOOD))
    assert page.count("data:image/png;base64,") == 1 + 1 + 3  # thumbnail, distributions, mosaics
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert str(here) not in page


def test_index_refuses_what_is_no_corpus(here: Path) -> None:
    run()
    with pytest.raises(UserError, match="other settings"):
        index(job=JOB | {"prepare": JOB["prepare"] | {"min_slices": 3}})
    with pytest.raises(UserError, match="no such file"):
        index(shards=2)
    series_table(here, {GOOD[0]: 1})
    run(shard=1)
    with pytest.raises(UserError, match=r"1\.2\.10 is in two tables"):
        index()
    shutil.rmtree("volumes/shard=00001")
    series_table(here, {"1.2.20": 0, "1.2.30": 0})
    run()
    with pytest.raises(UserError, match=r"none of 2 series is usable; reasons: .*localizer \(1\)"):
        index()


def test_headers_decide_by_the_criteria_and_the_funnel_goes_on(here: Path) -> None:
    thin = Criteria(min_instances=1, thickness_mm=(3.0, 5.0))
    first = run("a", criteria=thin)
    assert first["reason"][list(GOOD)].tolist() == ["thickness_below"] * 3
    assert "min_SliceThickness >= 3" in first["detail"][GOOD[0]]
    run()
    index()
    funnel = tables.read("funnel", "volumes/funnel.parquet").set_index("step")["series"]
    assert funnel.to_dict() == {
        "chosen": 5,
        "downloaded whole": 4,
        "headers: readable": 4,
        "headers: CT images": 4,
        "headers: num_instances >= 1": 4,
        "headers: one position for every instance": 4,
        "headers: no localizer": 3,
        "a volume: geometry and HU are sound": 3,
    }


def test_stricter_criteria_refuse_finished_volumes_without_reading_dicom(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    monkeypatch.setattr(stage.intake.download, "fetch", lambda *_: pytest.fail("fetched again"))
    series_table(here, dict.fromkeys(GOOD, 0))
    table = run(criteria=Criteria(min_instances=21, thickness_mm=None))
    assert table["reason"].tolist() == ["too_few_slices"] * 3
    assert not list(Path("volumes").rglob("*.b2nd"))


def test_a_fault_of_the_other_converter_harms_no_series(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("odd header")

    monkeypatch.setattr(stage.converters, "cross_check", fail)
    assert (run(cross_check=9)["status"] == "ok").sum() == 3
    checks = tables.read("cross_checks", "volumes/shard=00000/cross_checks.parquet")
    assert checks["detail"].tolist() == ["ZeroDivisionError: odd header"] * 3 and set(checks["status"]) == {"refused"}


def test_a_sample_is_read_by_the_other_converter_too(here: Path) -> None:
    run(cross_check=2)
    checks = tables.read("cross_checks", "volumes/shard=00000/cross_checks.parquet")
    assert set(checks["status"]) == {"agrees"} and 1 <= len(checks) <= 2
    assert checks["voxels"].tolist() == [int(np.prod(SHAPE))] * len(checks)
    run("none", cross_check=0)
    assert tables.read("cross_checks", "none/shard=00000/cross_checks.parquet").empty


def test_real_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dicom").symlink_to(shared_data / "dicom")
    series_table(tmp_path, {folder.name: 0 for folder in sorted(Path("dicom").iterdir())})
    table = run()
    assert table["reason"].to_dict() == {
        "exam_summary": "derived",
        "head_axial_1mm": "",
        "head_axial_5mm": "",
        "head_tilt_stereotaxis": "",
        "head_tilt_uneven_spacing": "",
        "localizer": "localizer",
        "mr_not_ct": "not_ct",
        "trunk_jpeg2000": "",
    }
    assert len(list(Path("volumes").rglob("*.png"))) == 3
    assert len(index()) == 8


def test_no_torch_is_imported() -> None:
    code = "import sys, ctfm.stages.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
