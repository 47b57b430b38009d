"""Retrieval of whole scans against scikit-learn's nearest neighbours."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.neighbors import NearestNeighbors

from ctfm.embedding import table
from ctfm.embedding.retrieving import retrieve
from ctfm.errors import UserError
from ctfm.stages.embed import embed
from tests.embedding.conftest import write_encoder


@pytest.fixture(scope="module")
def made(tmp_path_factory, shared_data):
    """Return an encoder, a table of three real scans, and the scans."""
    folder = tmp_path_factory.mktemp("retrieve")
    encoder = write_encoder(folder / "coarse", spacing_mm=(9.0, 8.0, 8.0), patch=(16, 32, 32))
    scans = [shared_data / "nifti" / f"{name}.nii.gz" for name in ("trunk_3mm", "abdomen_3mm", "aorta_1p5mm")]
    embed(scans, encoder=str(encoder), out=folder / "emb.parquet", overlap=0.0)
    return encoder, folder / "emb.parquet", scans


def test_hits_are_those_of_scikit_learn_without_the_scan_itself(made, tmp_path, capsys):
    encoder, path, scans = made
    retrieve([scans[0]], [path], encoder=str(encoder), count=5, out=tmp_path / "hits.csv", as_json=True)
    told = json.loads(capsys.readouterr().out)
    rows = table.read(path)
    vectors = table.matrix(rows).astype(float)
    distances, order = NearestNeighbors(metric="cosine").fit(vectors).kneighbors(vectors[:1], n_neighbors=3)
    assert [hit["case"] for hit in told] == rows.case.iloc[order[0][1:]].tolist()
    np.testing.assert_allclose([hit["similarity"] for hit in told], 1 - distances[0][1:], atol=1e-6)
    assert [hit["rank"] for hit in told] == [1, 2] and {hit["query"] for hit in told} == {"trunk_3mm"}
    assert pd.read_csv(tmp_path / "hits.csv").case.tolist() == [hit["case"] for hit in told]


def test_a_copy_under_another_name_is_no_hit_and_a_torn_scan_costs_only_itself(made, tmp_path, capsys, caplog):
    encoder, path, scans = made
    shutil.copyfile(scans[1], tmp_path / "again.nii.gz")
    (tmp_path / "torn.nii.gz").write_bytes(b"torn")
    with pytest.raises(typer.Exit) as left:
        retrieve([tmp_path / "torn.nii.gz", tmp_path / "again.nii.gz"], [path], encoder=str(encoder), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert left.value.exit_code == 1 and "unreadable" in caplog.text
    assert {hit["query"] for hit in told} == {"again"} and "abdomen_3mm" not in {hit["case"] for hit in told}


def test_other_weights_and_other_tables_are_refused(made, tmp_path):
    encoder, path, scans = made
    other = write_encoder(tmp_path / "other", seed=1, spacing_mm=(9.0, 8.0, 8.0), patch=(16, 32, 32))
    with pytest.raises(UserError, match="other weights"):
        retrieve([scans[0]], [path], encoder=str(other))
    embed([scans[2]], encoder=str(encoder), out=tmp_path / "max.parquet", overlap=0.0, pool="max")
    with pytest.raises(UserError, match="not embedded in one way"):
        retrieve([scans[0]], [path, tmp_path / "max.parquet"], encoder=str(encoder))
    pd.DataFrame({"case": ["a"]}).to_parquet(tmp_path / "no.parquet")
    with pytest.raises(UserError, match="needs the columns"):
        retrieve([scans[0]], [tmp_path / "no.parquet"], encoder=str(encoder))
