"""The head and the tail of the page."""

from __future__ import annotations

import pandas as pd

from ctfm import tables
from ctfm.reporting import facts, overview
from ctfm.reporting.effort import effort
from tests import synthetic


def told(root):
    runs = facts.runs(root)
    return dict(overview.overview(root, runs, effort(root, runs)).rows)


def test_what_on_what_and_for_how_long(tmp_path):
    found = told(synthetic.everything(tmp_path))
    assert found["Pre-trained"] == "ctfm"
    assert found["Corpora"] == "phantom: 15,000 series of 8 patients"
    assert found["Labelled data"] == "phantoms: 1 case, 1 of them tested on"
    assert found["Tasks"] == "wholebody (2 encoders, 2 sizes of the training set)"
    assert found["Machines"] == "1 × cpu, 32-true"
    assert found["First and last output"] == "2025-01-02 to 2025-01-02"


def test_of_nothing_nothing_is_said(tmp_path):
    assert told(tmp_path) == {"GPU-hours": "0.00"}
    assert overview.warnings(tmp_path) == []
    assert overview.sources(tmp_path, {}).rows == []


def test_kept_overlap_is_warned_of_and_excluded_overlap_is_not(tmp_path):
    synthetic.corpus(tmp_path)
    (sentence,) = overview.warnings(tmp_path)
    assert "15 series of made_up" in sentence and "corpora.phantom.exclude_downstream: true" in sentence
    path = tmp_path / "select/phantom/overlap.parquet"
    tables.write(pd.DataFrame(tables.read("overlap", path).assign(excluded=True)), "overlap", path)
    assert overview.warnings(tmp_path) == []


def test_the_papers_own_overlap_is_counted():
    found = overview.paper_overlap()
    assert any(text.startswith("63 series of rider_lung_ct") for text in found)
    assert any(text.startswith("421 series of nsclc_radiomics") for text in found)


def test_sources_are_what_the_modules_name(tmp_path):
    runs = {
        "encoders/ctfm": {"spec": {"pretrain": {"method": "simclr"}}},
        "datasets/liver": {"spec": {"dataset": {"kind": "totalsegmentator"}}},
        "datasets/old": {"spec": {"dataset": {"kind": "gone"}}},
        "embed/x/y": {"spec": {"dataset": "liver"}},
    }
    found = dict(overview.sources(tmp_path, runs).rows)
    assert "arXiv:2002.05709" in found["simclr"]
    assert "10.1148/ryai.230024" in found["totalsegmentator"]
    assert "gone" not in found
    (tmp_path / "select/idc").mkdir(parents=True)
    (tmp_path / "select/idc/attribution.md").write_text("cite me")
    assert overview.attributions(tmp_path) == {"idc": "cite me"}
