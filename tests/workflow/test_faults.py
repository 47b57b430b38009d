"""What the user can mend stops the run with one clear line and a status that is not 0."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.workflow


def overlay(fresh, text: str) -> tuple[str, ...]:
    (fresh.folder / "overlay.yaml").write_text(text)
    return ("config/demo.yaml", "tests/workflow/small.yaml", "overlay.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pretrain: {ctfm: {epoch: 3}}", "pretrain.ctfm.epoch: unknown key; did you mean 'epochs'?"),
        ("tasks: {wholebody: {options: {pach: [1, 1, 1]}}}", "did you mean 'patch'?"),
        ("outdir: Snakefile/x", "is a file, not a folder"),
    ],
)
def test_a_wrong_configuration_stops_before_the_graph(fresh, text, words):
    said = fresh.run("-n", configs=overlay(fresh, text), check=False)
    assert fresh.status != 0 and words in said
    assert "Traceback" not in said and "Building DAG" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("corpora: {phantom: {index: none.parquet}}", "none.parquet: no such file"),
        ("corpora: {phantom: {min_instances: 9999}}", "min_instances"),
    ],
)
def test_a_missing_index_or_an_empty_selection_names_the_cause(fresh, text, words):
    said = fresh.run("results/demo/select/phantom/series.parquet", configs=overlay(fresh, text), check=False)
    assert fresh.status != 0 and words in said


@pytest.mark.parametrize(
    ("configs", "corpora"),
    [
        (("config/config.yaml",), 2),
        (("config/config.yaml", "config/published.yaml"), 2),
        (("config/idc_mini.yaml",), 1),
    ],
)
def test_every_shipped_configuration_plans(fresh, configs, corpora):
    planned = fresh.planned(configs=configs)
    assert planned["select_series"] == corpora and planned["write_report"] == 1
