"""What is said of the tasks ``pca`` and ``saliency`` alone, and of the panels that show them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ctfm import tables
from ctfm.config import Evaluate, Figures
from ctfm.errors import UserError
from ctfm.figures import _pca, _saliency, _style
from ctfm.figures._results import Results
from ctfm.imaging import store
from ctfm.imaging.volume import Volume, read_image, write_nifti
from ctfm.metrics.summary import summarise
from ctfm.tasks import _maps, pca, saliency
from tests.makers import found_cases

SMALL = {
    pca: {"patch": (8, 16, 16), "overlap": 0.5, "crop": "volume"},
    saliency: {"overlap": 0.0, "spacing_mm": (4, 4, 4), "scans": 2},
}


def values(rows, metric, label="all"):
    return {row["case_id"]: row["value"] for row in rows if (row["metric"], row["label"]) == (metric, label)}


def patches(cases, colour, folder):
    """Write patches at random places, with the colour that ``colour`` gives of (organs, number of the case)."""
    parts = []
    for number, case in enumerate(cases):
        rng, image = np.random.default_rng(number), store.open_volume(case.image).load()
        voxels = rng.integers(0, image.shape, (600, 3))
        ids = store.open_volume(case.label).load().array[tuple(voxels.T)]
        inside = image.array[tuple(voxels.T)] > -500
        lab = np.where(inside[:, None], colour(ids, rng, number), np.nan)
        columns = [
            "left_mm",
            "posterior_mm",
            "superior_mm",
            *(f"component_{k}" for k in (1, 2, 3)),
            "lightness",
            "a",
            "b",
        ]
        rows = pd.DataFrame(np.hstack([image.world(voxels), rng.normal(size=(600, 3)), lab]), columns=columns)
        parts.append(rows.assign(case=case.case, patch=np.arange(600), foreground=inside))
    tables.write(pd.concat(parts), "components", folder / "components.parquet")
    (folder / _maps.DRAWN).write_text(json.dumps([case.case for case in cases]))
    return folder


def by_organ(ids, rng, number):
    return np.column_stack([ids + rng.normal(0, 0.1, len(ids)), -ids, np.zeros(len(ids))])


def test_a_colour_that_means_the_organ_agrees_in_all_scans(cases, tmp_path):
    rows = pca.measure(pca.Settings(), cases, patches(cases, by_organ, tmp_path))
    assert set(values(rows, "colour_balanced_accuracy").values()) == {1.0}
    assert set(values(rows, "foreground_agreement")) == {case.case for case in cases}
    assert min(values(rows, "foreground_agreement").values()) > 0.99
    assert values(rows, "colour_recall", "liver")[cases[0].case] == 1
    chance = values(rows, "colour_chance")[cases[0].case]
    assert chance == pytest.approx(1 / 3) and values(rows, "colour_majority")[cases[0].case] < 1
    assert pca.scores(rows)["colour_accuracy"] == 1


@pytest.mark.parametrize(
    "colour",
    [
        lambda ids, rng, number: rng.normal(size=(len(ids), 3)),  # of no meaning
        lambda ids, rng, number: by_organ(
            np.array([0, 1, 5, 52, 1, 5])[np.searchsorted([0, 1, 5, 52], ids) + (ids > 0) * (number % 3)], rng, 0
        ),
    ],
    ids=["random", "another-meaning-in-each-scan"],
)
def test_colours_without_a_common_meaning_do_no_better_than_chance(colour, cases, tmp_path):
    rows = pca.measure(pca.Settings(), cases, patches(cases, colour, tmp_path))
    found, chance = pca.scores(rows)["colour_balanced_accuracy"], pca.scores(rows)["colour_chance"]
    assert found < chance + 0.15


def test_enrichment_is_that_of_a_known_map(cases, tmp_path):
    (tmp_path / _maps.DRAWN).write_text(json.dumps([case.case for case in cases[:2]]))
    for case in cases[:2]:
        label, image = store.open_volume(case.label).load(), store.open_volume(case.image).load()
        salient = np.where(label.array == 5, 3.0, np.where(image.array > -500, 1.0, 0.0)).astype(np.float32)
        write_nifti(Volume(salient, label.affine), tmp_path / f"{case.case}.nii.gz")
    rows = saliency.measure(saliency.Settings(), cases, tmp_path)
    case = cases[0]
    ids, body = store.open_volume(case.label).load().array, store.open_volume(case.image).load().array > -500
    mean = 1 + 2 * (ids == 5).sum() / body.sum()
    assert values(rows, "organ_enrichment", "liver")[case.case] == pytest.approx(3 / mean)
    assert values(rows, "organ_enrichment", "spleen")[case.case] == pytest.approx(1 / mean)
    assert values(rows, "body_share")[case.case] == pytest.approx(1)
    assert values(rows, "body_volume_share")[case.case] == pytest.approx(body.mean())
    assert values(rows, "body_enrichment")[case.case] == pytest.approx(1 / body.mean())
    (left,) = [row for row in rows if row["case_id"] == cases[2].case]
    assert left["metric"] == "nothing_measured" and "not among the 2 scans" in left["note"]


@pytest.fixture(scope="module")
def results(cases, encoder, tmp_path_factory):
    """Return the results of both tasks on three cases for two encoders, which are the same here."""
    root, parts = tmp_path_factory.mktemp("results"), []
    for kind, options in SMALL.items():
        settings, name = kind.Settings(**options), kind.__name__.rpartition(".")[2]
        for arm in ("random", "ctfm"):
            out = root / "adapt" / name / arm / "all-0"
            kind.fit(settings, encoder, [], [], out, seed=0)
            kind.predict(out / "model", cases, out / "predictions")
            fixed = {"task": name, "dataset": "phantoms", "encoder": arm, "shots": "all", "seed": 0}
            shown = kind.slices(settings, cases, out / "predictions")
            tables.write(
                tables.of("slices", [{**r, **fixed} for r in shown]),
                "slices",
                root / f"slices/{name}/{arm}/all-0.parquet",
            )
            rows = kind.measure(settings, cases, out / "predictions")
            parts.append(tables.of("metrics", [{**row, **fixed, "split_hash": "a"} for row in rows]))
        joined = pd.concat([part for part in parts if part.task.iloc[0] == name])
        made = summarise(joined, Evaluate(bootstrap=100))
        tables.write(tables.of("summary", made), "summary", root / f"evaluate/{name}/summary.parquet")
    return root


def panel(module, root, letter):
    figure = Figure(figsize=(4, 2), layout="constrained")
    with _style.context():
        rows = module.panel(figure, figure.add_gridspec(1, 1)[0], Results(root), Figures(), letter)
        figure.draw_without_rendering()
    return figure, rows


def test_panels_show_planes_and_numbers(results):
    figure, rows = panel(_pca, results, "d")
    assert set(rows.panel) == {"d"} and len(figure.axes) == 3  # the heading, and two scans
    assert all(np.ptp(axes.images[0].get_array()) > 0 for axes in figure.axes[1:])
    assert "organ by colour: ctfm" in figure.axes[0].get_title(loc="left")
    assert {"colour_balanced_accuracy", "foreground_agreement"} <= set(rows.metric.dropna())
    assert set(rows[rows.case.notna()].encoder) == {"ctfm"}
    figure, rows = panel(_saliency, results, "e")
    assert len(figure.axes) == 3 and set(rows[rows.case.notna()].encoder) == {"ctfm", "random"}
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert np.abs(pictures[0] - pictures[1]).max() > 0.1 and np.allclose(pictures[1], pictures[2])
    assert "body_enrichment" in set(rows.metric.dropna())


def test_panels_without_their_task_name_it(tmp_path):
    for module, kind in ((_pca, "pca"), (_saliency, "saliency")):
        figure, rows = panel(module, tmp_path, "d")
        assert rows.empty and f"of the kind '{kind}'" in figure.axes[0].texts[0].get_text()


def test_scans_are_drawn_once_and_by_seed(cases, tmp_path):
    first = [case.case for case in _maps.drawn(cases, 2, 0, tmp_path)]
    assert len(first) == 2 and [case.case for case in _maps.drawn(cases[:1], 2, 7, tmp_path)] == [
        name for name in first if name == cases[0].case
    ]
    draws = {tuple(c.case for c in _maps.drawn(cases, 2, seed, tmp_path / str(seed))) for seed in range(9)}
    assert len(draws) > 1


def test_maps_lie_on_the_grid_of_the_case(results, cases):
    drawn = _maps.among(cases, results / "adapt/saliency/ctfm/all-0/predictions")
    for case in drawn:
        found = read_image(results / f"adapt/saliency/ctfm/all-0/predictions/{case.case}.nii.gz")
        assert found.shape == store.open_volume(case.image).shape and found.array.max() > 0


def test_pictures_are_of_what_was_drawn(results, cases):
    for kind, options in SMALL.items():
        folder = results / "adapt" / kind.__name__.rpartition(".")[2] / "ctfm/all-0/predictions"
        shown = {case.case for case in _maps.among(cases, folder)}
        for case in cases:
            found = kind.picture(kind.Settings(**options), case, folder)
            assert (found is not None) == (case.case in shown)


def test_bad_input_is_told(cases, encoder, tmp_path):
    with pytest.raises(UserError, match="run 'ctfm adapt' first"):
        pca.measure(pca.Settings(), cases, tmp_path)
    with pytest.raises(UserError, match="run 'ctfm adapt' first"):
        saliency.measure(saliency.Settings(), cases, tmp_path)
    findings = found_cases(tmp_path / "found", 2)
    (tmp_path / _maps.DRAWN).write_text(json.dumps([case.case for case in findings]))
    for case in findings:
        write_nifti(store.open_volume(case.image).load(), tmp_path / f"{case.case}.nii.gz")
    with pytest.raises(UserError, match="has no label map"):
        saliency.measure(saliency.Settings(), findings, tmp_path)
    (tmp_path / f"{cases[0].case}.nii.gz").unlink(missing_ok=True)
    (tmp_path / _maps.DRAWN).write_text(json.dumps([cases[0].case]))
    with pytest.raises(UserError, match="predict this case first"):
        saliency.measure(saliency.Settings(), cases, tmp_path)
