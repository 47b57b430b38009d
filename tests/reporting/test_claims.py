"""Every number of the paper has its line."""

from __future__ import annotations

from ctfm import published
from ctfm.reporting import claims
from ctfm.reporting.facts import NARROW
from tests import synthetic


def lines(found):
    return {line[0]: [cell.replace(NARROW, " ") for cell in line] for t in found.tables.values() for line in t.rows}


def test_every_number_has_a_line_even_of_an_empty_run(tmp_path):
    found = claims.compare(tmp_path)
    assert found.total == len(published.table()) == sum(len(table.rows) for table in found.tables.values())
    assert set(found.counts) == {claims.MEANING[claims.ABSENT], claims.MEANING[claims.QUOTED_ONLY]}
    assert all(line[1] for table in found.tables.values() for line in table.rows), "a number without its place"


def test_differences_have_intervals_on_the_same_data(tmp_path):
    root = synthetic.run(tmp_path, dataset="totalsegmentator", patients=248, shots=("all",), seeds=(0,))
    found = claims.compare(root)
    line = lines(found)["ctfm, dice, totalsegmentator"]
    assert line[2] == "0.8981 (0.8959 to 0.9004)" and line[5] == claims.SAME
    value, low, high = (float(text.strip("(to)")) for text in line[3].replace(" to ", " ").split())
    difference, less, more = (float(text.strip("(to)")) for text in line[4].replace(" to ", " ").split())
    assert abs(difference - (value - 0.8981)) < 1e-3 and abs(less - (low - 0.8981)) < 1e-3
    assert abs(more - (high - 0.8981)) < 1e-3 and less < difference < more
    assert "pooled (case, label) values" in line[6]
    assert lines(found)["vista3d, dice, totalsegmentator"][5] == claims.QUOTED_ONLY


def test_other_data_are_not_subtracted_from(tmp_path):
    root = synthetic.run(tmp_path, dataset="totalsegmentator", patients=9, shots=("all",), seeds=(0,))
    line = lines(claims.compare(root))["ctfm, dice, totalsegmentator"]
    assert line[3] != "–" and line[4] == "–" and line[5] == claims.OTHER


def test_settings_are_the_same_or_others(tmp_path):
    synthetic.everything(tmp_path)
    found = lines(claims.compare(tmp_path))
    assert found["evaluate.confidence"][3:6] == ["0.95", "the same", claims.ALIKE]
    assert found["pretrain.ctfm.hardware.devices"][3:6] == ["1", "-3", claims.UNLIKE]
