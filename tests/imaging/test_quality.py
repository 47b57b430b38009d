from __future__ import annotations

from pathlib import Path

import pandas as pd

from ctfm import tables
from ctfm.config import Criteria, Prepare
from ctfm.imaging import convert, quality
from tests.imaging import dicom_maker as maker


def table(folder: Path, good: int, bad: int) -> pd.DataFrame:
    volume, facts = convert.convert(maker.write(folder / "dicom", maker.body()), Prepare(), Criteria(min_instances=1))
    rows = []
    for i in range(good):
        row = convert.keep(volume, facts, folder / f"shard=00000/1.{i}.b2nd", "k")
        rows.append(
            row | {"SeriesInstanceUID": f"1.{i}", "path": f"shard=00000/1.{i}.b2nd", "collection_id": "a", "shard": 0}
        )
    for i in range(bad):
        row = {"status": "quarantined", "reason": "error", "detail": f"<script>{i}</script>", "collection_id": "b"}
        rows.append(row | {"SeriesInstanceUID": f"2.{i}", "shard": 0})
    return tables.of("volumes", rows)


def drawn(rows: pd.DataFrame, folder: Path, checks: list[dict] | None = None) -> str:
    funnel = tables.of("funnel", [{"step": "all series", "series": 12345, "studies": 2, "patients": 1}])
    return quality.page(rows, folder, funnel, tables.of("cross_checks", checks or []))


def test_page_without_refused_series(tmp_path: Path) -> None:
    page = drawn(table(tmp_path, 1, 0), tmp_path)
    assert "1 of 1 series are ready" in page and "<p>None.</p>" in page
    assert "12,345" in page and "prepare.cross_check" in page


def test_cross_checks_that_do_not_agree_are_shown(tmp_path: Path) -> None:
    checks = [{"SeriesInstanceUID": f"1.{i}", "status": "agrees", "detail": ""} for i in range(3)]
    checks += [{"SeriesInstanceUID": "1.9", "status": "differs", "detail": "7 voxels <b>differ</b>"}]
    page = drawn(table(tmp_path, 1, 0), tmp_path, checks)
    assert "4 series, drawn" in page and "3 agree voxel by voxel" in page
    assert "differs: 7 voxels &lt;b&gt;differ&lt;/b&gt;" in page


def test_page_is_bounded_and_safe(tmp_path: Path) -> None:
    rows = table(tmp_path, quality.SAMPLE + 2, quality.SHOWN + 3)
    page = drawn(rows, tmp_path)
    assert page == drawn(rows, tmp_path)
    assert page.count('alt="three planes') == quality.SAMPLE
    assert f"The first {quality.SHOWN} of {quality.SHOWN + 3}." in page
    assert "<script>" not in page and page.count("&lt;script&gt;") == quality.SHOWN
    assert '<td>a</td><td class="n">8</td><td class="n">0</td>' in page
