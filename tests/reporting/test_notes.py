from __future__ import annotations

from ctfm.datasets import rider
from ctfm.files import write_json
from ctfm.reporting import notes, outcomes
from tests import synthetic


def test_the_note_of_a_kind_stands_beside_the_results_on_its_data(tmp_path):
    synthetic.repeated(tmp_path, dataset="pairs")
    assert notes.of_dataset(tmp_path, "pairs") == []
    write_json({"spec": {"dataset": {"kind": "rider"}}}, tmp_path / "datasets/pairs/run.json")
    assert notes.of_dataset(tmp_path, "pairs") == [rider.NOTE]
    assert "pre-trained on" in rider.NOTE and "exclude_downstream: true" in rider.NOTE
    (task,) = outcomes.tasks(tmp_path)
    assert rider.NOTE in task["not_comparable"]


def test_most_kinds_have_none(tmp_path):
    write_json({"spec": {"dataset": {"kind": "sinoct"}}}, tmp_path / "datasets/heads/run.json")
    assert notes.of_dataset(tmp_path, "heads") == []
