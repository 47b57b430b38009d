"""Figures from a folder of tables in another checkout, and Snakemake's own report of a finished run."""

from __future__ import annotations

import shutil

import pytest

pytestmark = pytest.mark.workflow
TABLES = ("*.parquet", "metrics.csv")


def test_figures_of_tables_alone_rerun_nothing_else(demo, fresh):
    """Volumes, weights, records and Snakemake's own notes are gone, and the tables are older than the checkout."""
    source, target = demo.path(""), fresh.path("")
    for path in (path for pattern in TABLES for path in source.rglob(pattern)):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    (fresh.folder / "all.yaml").write_text("report: {figures: {ids: [fig2, fig5, ed6, ed8, s2], dpi: 60}}\n")
    configs = ("config/demo.yaml", "tests/workflow/small.yaml", "all.yaml")
    assert fresh.planned("figures", configs=configs) == {"draw_figure": 5}
    fresh.run("figures", configs=configs)
    assert {path.name for path in (target / "report/figures").glob("*.png")} == {
        f"{name}.png" for name in ("fig2", "fig5", "ed6", "ed8", "s2")
    }
    if demo.path("report/figures/fig2.svg").exists():
        for suffix in ("png", "svg", "csv"):
            name = f"report/figures/fig2.{suffix}"
            assert fresh.path(name).read_bytes() == demo.path(name).read_bytes(), suffix


def test_snakemakes_own_report_has_captions(demo, tmp_path):
    page = tmp_path / "report.html"
    demo.run("--report", str(page))
    text = page.read_text()
    assert "Figure 2 of the paper: whole-body segmentation" in text
    assert "what may not be compared" in text.replace("\\n", " ").replace("\n", " ")
