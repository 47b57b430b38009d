from __future__ import annotations

from pathlib import Path

import pandas as pd

from ctfm import tables
from ctfm.config import Prepare
from ctfm.imaging import convert, quality
from tests.imaging import dicom_maker as maker


def table(folder: Path, good: int, bad: int) -> pd.DataFrame:
    volume, facts = convert.convert(maker.write(folder / "dicom", maker.body()), Prepare())
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


def test_page_without_refused_series(tmp_path: Path) -> None:
    page = quality.page(table(tmp_path, 1, 0), tmp_path)
    assert "1 of 1 series are ready" in page and "<p>None.</p>" in page


def test_page_is_bounded_and_safe(tmp_path: Path) -> None:
    rows = table(tmp_path, quality.SAMPLE + 2, quality.SHOWN + 3)
    page = quality.page(rows, tmp_path)
    assert page == quality.page(rows, tmp_path)
    assert page.count('alt="three planes') == quality.SAMPLE
    assert f"The first {quality.SHOWN} of {quality.SHOWN + 3}." in page
    assert "<script>" not in page and page.count("&lt;script&gt;") == quality.SHOWN
    assert '<td>a</td><td class="n">8</td><td class="n">0</td>' in page
