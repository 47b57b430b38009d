"""The context of the template; the page itself is tested with the stage."""

from __future__ import annotations

from ctfm.reporting import page
from tests import synthetic


def test_links_lead_from_where_the_page_stands(tmp_path):
    root = synthetic.everything(tmp_path)
    near = page.context(root, root / "report" / "report.html")
    far = page.context(root, root / "a" / "b" / "report.html")
    assert near["corpora"][0]["link"] == "../volumes/phantom/quality.html"
    assert far["corpora"][0]["link"] == "../../volumes/phantom/quality.html"


def test_a_corpus_that_is_only_selected_has_no_pictures(tmp_path):
    synthetic.corpus(tmp_path)
    (tmp_path / "volumes/phantom/index.parquet").unlink()
    (corpus,) = page.context(tmp_path, tmp_path / "report.html")["corpora"]
    assert "refused" not in corpus
    assert corpus["funnel"].rows
