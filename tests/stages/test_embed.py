from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import typer

from ctfm import files, provenance, spec, tables
from ctfm.config import Embed
from ctfm.embedding import encode, table
from ctfm.errors import UserError
from ctfm.stages.embed import embed
from tests import makers
from tests.embedding.conftest import write_encoder

GOOD = {"head_axial_1mm", "head_axial_5mm", "head_tilt_stereotaxis", "head_tilt_uneven_spacing", "trunk_jpeg2000"}
REFUSED = {"localizer": "localizer", "exam_summary": None, "mr_not_ct": "not_ct"}


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """Return an encoder for which the real scans are small."""
    folder = tmp_path_factory.mktemp("encoders") / "coarse"
    return write_encoder(folder, spacing_mm=(8.0, 6.0, 6.0), patch=(16, 48, 48))


def test_real_scans_of_all_kinds_and_the_refused_ones(coarse, shared_data, tmp_path, caplog):
    caplog.set_level("INFO")
    paths = sorted((shared_data / "dicom").iterdir())
    paths += [p for p in sorted((shared_data / "nifti").iterdir()) if "labels" not in p.name]
    (tmp_path / "torn.nii.gz").write_bytes(b"torn")
    paths += [tmp_path / "torn.nii.gz", tmp_path / "gone.nrrd"]
    with pytest.raises(typer.Exit) as left:
        embed(paths, encoder=str(coarse), out=tmp_path / "emb.parquet", overlap=0.0)
    assert left.value.exit_code == 1
    rows = table.read(tmp_path / "emb.parquet")
    assert set(rows.case) == GOOD | {"trunk_3mm", "abdomen_3mm", "aorta_1p5mm"} and len(rows) == 8
    failures = tables.read("embedding_failures", tmp_path / "emb.failures.parquet").set_index("case")
    assert set(failures.index) == {*REFUSED, "torn", "gone"}
    assert failures.reason["torn"] == "unreadable" and failures.reason["gone"] == "missing_image"
    assert all(failures.reason[name] == reason for name, reason in REFUSED.items() if reason)
    vectors = table.matrix(rows)
    assert vectors.shape == (8, 64) and np.isfinite(vectors).all()
    assert set(rows.model) == {files.sha256(coarse / "model.safetensors")[:12]} and set(rows.encoder) == {"coarse"}
    sums = rows.set_index("case").sha256
    assert sums["trunk_3mm"] == files.sha256(shared_data / "nifti/trunk_3mm.nii.gz")
    assert '"spacing_mm": [8.0, 6.0, 6.0]' in caplog.text and "mr_not_ct failed: not_ct" in caplog.text


def test_patches_and_organs_get_rows(coarse, shared_data, tmp_path):
    scan = shared_data / "nifti/abdomen_3mm.nii.gz"
    labels = shared_data / "nifti/abdomen_3mm_totalsegmentator_labels.nii.gz"
    given = {"encoder": str(coarse), "out": tmp_path / "emb.parquet", "label_names": "totalsegmentator"}
    embed([scan], **given, labels=[labels], patches=True, patch=(8, 32, 32), overlap=0.5, crop="volume")
    rows = table.read(tmp_path / "emb.parquet")
    organs, patches = rows[rows.label != ""], rows[rows.patch >= 0]
    assert {"liver", "spleen", "aorta"} <= set(organs.label) and len(organs) > 20
    assert patches.patch.tolist() == list(range(len(patches))) and (patches.label == "").all()
    np.testing.assert_allclose(patches.z1_mm - patches.z0_mm, 8 * 8)
    np.testing.assert_allclose(patches.x1_mm - patches.x0_mm, 32 * 6)
    whole = table.whole_scans(rows).iloc[0]
    assert (whole.z0_mm, whole.z1_mm) == pytest.approx((0, 88)) and whole.x1_mm == pytest.approx(366)
    np.testing.assert_allclose(whole.embedding, table.matrix(patches).mean(axis=0), rtol=1e-5)
    facts = tables.facts(tmp_path / "emb.parquet")
    assert facts["spec"]["embed"]["overlap"] == 0.5 and facts["preprocess"]["spacing_mm"] == [8, 6, 6]
    assert json.loads((tmp_path / "emb.run.json").read_text())["spec"] == facts["spec"]


def test_the_cases_of_a_data_set(coarse, tmp_path, monkeypatch):
    cases = makers.case_table(tmp_path / "data", {"train": 2, "test": 1})
    job = {"stage": "embed", "version": 1, "dataset": "data", "encoder": "mine"}
    job["embed"] = Embed(organs=True, overlap=0).model_dump(mode="json")
    out = tmp_path / "results/embed/data/mine.parquet"
    embed(encoder=str(coarse), cases=cases, spec=json.dumps(job), out=out)
    rows = table.read(out)
    assert set(rows.case) == {"s0000", "s0001", "s0002"} and set(rows.label) == {"", "liver", "spleen", "aorta"}
    assert set(rows.encoder) == {"mine"}
    first = encode.Encoder(coarse).embed(tmp_path / "data/s0000.b2nd", overlap=0)
    np.testing.assert_array_equal(table.whole_scans(rows).set_index("case").embedding["s0000"], first)
    assert not list(provenance.stale(tmp_path / "results"))
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)
    (sentence,) = provenance.stale(tmp_path / "results")
    assert "embed/data/mine: " in sentence and "ctfm.embedding.pool" in sentence and "VERSIONS['embed']" in sentence


def test_one_damaged_case_does_not_stop_a_data_set(coarse, tmp_path):
    cases = makers.case_table(tmp_path / "data", {"train": 2})
    (tmp_path / "data/s0001.b2nd").write_bytes(b"torn")
    job = {"stage": "embed", "version": 1, "dataset": "data", "encoder": "mine", "embed": Embed().model_dump()}
    embed(encoder=str(coarse), cases=cases, spec=json.dumps(job), out=tmp_path / "emb.parquet")
    assert set(table.read(tmp_path / "emb.parquet").case) == {"s0000"}
    assert pd.read_parquet(tmp_path / "emb.failures.parquet").reason.tolist() == ["unreadable"]
    shutil.copy(tmp_path / "data/s0001.b2nd", tmp_path / "data/s0000.b2nd")
    with pytest.raises(typer.Exit):
        embed(encoder=str(coarse), cases=cases, spec=json.dumps(job), out=tmp_path / "emb.parquet")


def test_wrong_options_are_told(coarse, tmp_path):
    with pytest.raises(UserError, match="name at least one scan"):
        embed(encoder=str(coarse), out=tmp_path / "e.parquet")
    with pytest.raises(UserError, match="2 label maps for 1 scans"):
        embed([tmp_path / "a.nii"], encoder=str(coarse), labels=[tmp_path / "b.nii"] * 2, out=tmp_path / "e.parquet")
    with pytest.raises(UserError, match="--overlap: Input should be less than 1"):
        embed([tmp_path / "a.nii"], encoder=str(coarse), overlap=1.0, out=tmp_path / "e.parquet")


def test_the_configuration_names_data_sets_and_encoders(root):
    cfg = spec.load(root / "config/demo.yaml").model_dump(exclude_defaults=True)
    name = next(iter(cfg["datasets"]))
    cfg["embed"] = {name: {"encoders": ["ctfm"], "overlap": 0.5}}
    job = spec.spec(spec.check(cfg), "embed", dataset=name, encoder="ctfm")
    assert job["embed"]["overlap"] == 0.5 and job["dataset"] == name and "encoders" not in job["embed"]
    with pytest.raises(UserError, match=r"embed\.nothing: 'nothing' is not an entry of datasets"):
        spec.check({**cfg, "embed": {"nothing": {}}})
    with pytest.raises(UserError, match=r"embed.*encoders: 'ctfn' is not an entry.*'ctfm'"):
        spec.check({**cfg, "embed": {name: {"encoders": ["ctfn"]}}})
