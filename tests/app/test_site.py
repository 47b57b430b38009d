"""The whole way by HTTP: list, open, send, search, download; and what must not be possible."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ctfm.app import library, uploads
from tests.app.conftest import block, finished, nifti
from tests.app.test_uploads import dicom, header, zipped

MIDDLE = {"z": 5, "y": 5, "x": 5, "low": -160, "high": 240}


def middle(client, scan="1"):
    told = client.get(f"/api/scans/{scan}").json()
    return (np.asarray(told["affine"]) @ [*(n // 2 for n in told["shape"]), 1])[:3].tolist()


def begun(client, **changes):
    question = {"source": "1", "point_mm": middle(client), "targets": ["2"], **changes}
    return client.post("/api/searches", json=question)


def test_it_lists_scans_and_says_what_the_encoder_is(client):
    told = client.get("/api/state").json()
    assert told["encoder"] == "random" and told["random"] and told["told"] == "Phantoms."
    assert told["patch"] == "64 x 64 x 64 mm"
    assert [scan["id"] for scan in told["scans"][:2]] == ["1", "2"] and told["scans"][0]["organs"]


def test_a_search_from_the_question_to_the_files(client, site):
    search = begun(client).json()["id"]
    told = finished(client, search)
    assert told["state"] == "done" and told["share"] == 1
    (found,) = told["results"]
    assert found["target"] == "2" and len(found["matches"]) > 3 and len(found["quantiles"]) == 101
    assert told["query"]["source"] == site.library.get("1").source.name and told["query"]["hu"] is not None
    base = f"/api/searches/{search}"
    rows = list(csv.DictReader(io.StringIO(client.get(f"{base}/matches.csv").text)))
    assert [float(row["similarity"]) for row in rows] == [match["similarity"] for match in found["matches"]]
    assert client.get(f"{base}/matches.json").json()["results"] == told["results"]
    answer = client.get(f"{base}/2/heat.nii.gz")
    assert "attachment" in answer.headers["content-disposition"]
    heat = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    shown = nib.Nifti1Image.from_bytes(client.get("/api/scans/2/shown.nii").content)
    assert heat.shape == shown.shape and np.allclose(heat.affine, shown.affine, atol=1e-4)
    assert nib.Nifti1Image.from_bytes(client.get(f"{base}/2/overlay.nii").content).get_fdata().max() <= 1
    drawn = client.get("/api/scans/2/axial.png", params=MIDDLE | {"search": search, "from": -1, "to": 1, "opacity": 1})
    plain = client.get("/api/scans/2/axial.png", params=MIDDLE)
    pictures = [np.asarray(Image.open(io.BytesIO(a.content)).convert("RGB")) for a in (drawn, plain)]
    assert pictures[0].shape == pictures[1].shape and not np.array_equal(*pictures)


def test_several_targets_and_the_source_among_them(client):
    told = finished(client, begun(client, targets=["2", "1", "2"]).json()["id"])
    assert [found["target"] for found in told["results"]] == ["2", "1"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"source": "99"}, 404),
        ({"source": "../1"}, 404),
        ({"targets": ["99"]}, 404),
        ({"targets": []}, 422),
        ({"targets": ["2"] * 33}, 422),
        ({"point_mm": [0, 0]}, 422),
        ({"point_mm": [0, 0, "x"]}, 422),
        ({"point_mm": [0, 0, 1e9]}, 422),
        ({"point_mm": [9000, 0, 0]}, 422),
        ({"more": 1}, 422),
        ({"source": "1" * 70_000}, 413),
    ],
)
def test_wrong_questions_are_answered_with_a_sentence(client, changes, status):
    answer = begun(client, **changes)
    assert answer.status_code == status and len(answer.json()["error"]) > 5


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b'{"point_mm": [NaN, 0, 0], "source": "1", "targets": ["2"]}']
)
def test_questions_that_are_no_questions(client, body):
    assert client.post("/api/searches", content=body).status_code == 422


def test_a_search_can_be_stopped(client):
    search = begun(client).json()["id"]
    assert client.delete(f"/api/searches/{search}").status_code == 204
    assert finished(client, search)["state"] in ("stopped", "done")


def test_a_full_queue_says_so(client, site, monkeypatch):
    monkeypatch.setattr("ctfm.app.jobs.MOST_WAITING", 0)
    answer = begun(client)
    assert answer.status_code == 429 and "waiting" in answer.json()["error"]


def test_a_sent_scan_is_searched_and_removed(client, site, tmp_path):
    path = nifti(tmp_path / "mine.nii.gz")
    told = client.post("/api/scans?name=mine.nii.gz", content=path.read_bytes())
    assert told.status_code == 201 and told.json()["name"] == "mine"
    scan = told.json()["id"]
    assert finished(client, begun(client, source=scan, point_mm=middle(client, scan)).json()["id"])["state"] == "done"
    assert client.delete(f"/api/scans/{scan}").status_code == 204
    assert client.get(f"/api/scans/{scan}").status_code == 404 == client.delete(f"/api/scans/{scan}").status_code
    assert client.delete("/api/scans/1").status_code == 403 and client.get("/api/scans/1").status_code == 200
    assert not (site.library.work / f"scan-{scan}").exists()


def test_a_real_series_as_zip_gives_the_voxels_that_simpleitk_reads(client, shared_data, tmp_path):
    import SimpleITK as sitk

    folder = shared_data / "dicom/trunk_jpeg2000"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"export/{path.name}")
        for path in (shared_data / "dicom/localizer").iterdir():
            archive.write(path, f"scout/{path.name}")
    scan = client.post("/api/scans?name=trunk.zip", content=stream.getvalue()).json()["id"]
    (tmp_path / "a.nii").write_bytes(client.get(f"/api/scans/{scan}/shown.nii").content)
    shown = sitk.ReadImage(str(tmp_path / "a.nii"))
    series = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    rng = np.random.default_rng(0)
    for _ in range(20):
        index = [int(n) for n in rng.integers(0, series.GetSize())]
        point = series.TransformIndexToPhysicalPoint(index)
        assert shown[shown.TransformPhysicalPointToIndex(point)] == max(series[index], -1024)
    client.delete(f"/api/scans/{scan}")


HOSTILE = {  # more of them in test_uploads.py
    "nothing": b"",
    "text": b"hello",
    "as large as it likes": header((3, 32767, 32767, 32767, 1, 1, 1, 1)),
    "all the same": header() + bytes(1024),
    "broken dicom": zipped([(f"../{n}", dicom()) for n in range(5)]),
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_hostile_files_get_a_sentence_and_leave_nothing(client, site, what):
    before = set(site.library.work.iterdir())
    answer = client.post("/api/scans?name=../../x%00.nii", content=HOSTILE[what])
    assert answer.status_code == 422 and len(answer.json()["error"]) > 10
    assert str(site.library.work) not in answer.text and "Traceback" not in answer.text
    assert set(site.library.work.iterdir()) == before


def test_voxels_that_are_no_numbers_and_headers_that_make_no_sense(client, tmp_path):
    made = block()
    image = nib.Nifti1Image(np.where(made.array > 0, np.nan, made.array).astype(np.float32), np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    assert "not_finite" in client.post("/api/scans", content=(tmp_path / "a.nii").read_bytes()).json()["error"]
    huge = nib.Nifti1Image(made.array, np.diag([1e5, 1e5, 1e5, 1]))
    nib.save(huge, tmp_path / "b.nii")
    assert "bad_affine" in client.post("/api/scans", content=(tmp_path / "b.nii").read_bytes()).json()["error"]


def test_more_bytes_than_allowed_are_refused_declared_or_not(client, site, monkeypatch):
    monkeypatch.setattr(uploads, "SENT_BYTES", 1000)
    assert client.post("/api/scans", content=b"x" * 1001).status_code == 413
    assert client.post("/api/scans", content=b"x", headers={"Content-Length": str(10**15)}).status_code == 413
    assert client.post("/api/scans", content=(b"x" * 600 for _ in range(3))).status_code == 413
    assert client.get("/api/state").json()["largest_bytes"] == 1000


def test_only_so_many_are_sent_at_once(client, site):
    assert site.receiving.acquire() and site.receiving.acquire()
    assert client.post("/api/scans", content=b"x").status_code == 429
    site.receiving.release()
    site.receiving.release()


def test_too_many_sent_scans_are_refused(client, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "MOST_SENT", 0)
    answer = client.post("/api/scans", content=nifti(tmp_path / "a.nii").read_bytes())
    assert answer.status_code == 422 and "remove one" in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../site.py",
        "/static/%2e%2e/site.py",
        "/static/..%2fsite.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/vendor",
        "/static/%00",
        "/api/scans/..%2f..%2fetc%2fpasswd/shown.nii",
        "/api/scans/%2e%2e/shown.nii",
        "/api/scans/1/..%2fscan.b2nd",
        "/api/searches/..%2f..%2f1/2/heat.nii.gz",
        "/api/searches/1/..%2f2/heat.nii.gz",
        "/api/searches/%2e%2e/matches.csv",
        "/api/scans/1/axial%2f.png?z=1&y=1&x=1&low=0&high=1",
        "/api/scans/1/oblique.png?z=1&y=1&x=1&low=0&high=1",
        "/api/searches/1/matches.exe",
    ],
)
def test_no_address_leads_to_a_file_that_is_not_offered(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and "root:" not in answer.text and "import" not in answer.text


@pytest.mark.parametrize(
    "changes",
    [{"z": 10**6}, {"z": -1}, {"z": "x"}, {"low": "nan"}, {"high": "1e999"}, {"search": "99"}, {"low": 5, "high": 5}],
)
def test_planes_out_of_range_are_refused(client, changes):
    assert client.get("/api/scans/1/axial.png", params=MIDDLE | changes).status_code in (404, 422)


@pytest.mark.parametrize("point", [{}, {"left": "x", "posterior": 0, "superior": 0}])
def test_points_must_be_numbers(client, point):
    assert client.get("/api/scans/1/at", params=point).status_code == 422


def test_other_methods_are_refused(client):
    for method in ("PUT", "PATCH", "DELETE"):
        assert client.request(method, "/api/state").status_code == 405
    assert client.options("/api/scans").status_code in (403, 405)
