"""Every file in figures/ keeps the contract; a new figure is tested by being there."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

from ctfm import plugins
from ctfm.config import Figures
from ctfm.figures import _style
from ctfm.figures._results import Results
from tests import synthetic

FIGURES = plugins.names("figures")
SETTINGS = Figures(dpi=80)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = synthetic.run(tmp_path_factory.mktemp("results"))
    synthetic.training(root)
    return root


def drawn(name, root, stem):
    with _style.context():
        figure, rows = plugins.get("figures", name).draw(Results(root), SETTINGS)
        files = _style.save(figure, rows, stem, SETTINGS.dpi)
    return figure, rows, files


def texts(figure):
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


@pytest.mark.parametrize("name", FIGURES)
def test_draws_from_tables_and_gives_its_numbers(name, results, tmp_path):
    figure, rows, files = drawn(name, results, tmp_path / name)
    assert isinstance(figure, Figure)
    assert len(rows)
    assert "panel" in rows.columns
    assert pd.read_csv(files[2]).shape == rows.shape
    for axes in figure.axes:
        if axes.axison:
            assert axes.get_xlabel() or len(axes.get_xticklabels()), "an axis without a name"


@pytest.mark.parametrize("name", FIGURES)
def test_same_tables_give_the_same_bytes(name, results, tmp_path):
    first, second = (drawn(name, results, tmp_path / n / name)[2] for n in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix


@pytest.mark.parametrize("name", FIGURES)
def test_without_tables_says_which_command_makes_them(name, tmp_path):
    figure, rows, _ = drawn(name, tmp_path / "empty", tmp_path / name)
    assert rows.empty
    assert "snakemake" in texts(figure)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    "kwargs",
    [
        {"encoders": ("ctfm",), "shots": ("all",), "seeds": (0,)},
        {"encoders": ("ctfm", "random", "suprem"), "dataset": "totalsegmentator", "patients": 248, "shots": ("all",)},
        {"patients": 1},
        {"labels": {"liver": "organs"}},
        {"labels": {f"label_{n}": f"group{n % 5}" for n in range(60)}, "shots": ("5",), "seeds": (0,)},
    ],
    ids=["alone", "as-in-the-paper", "one-patient", "one-label", "many-labels"],
)
def test_draws_whatever_was_run(name, kwargs, tmp_path):
    root = synthetic.run(tmp_path, **kwargs)
    synthetic.training(root)
    _, rows, _ = drawn(name, root, tmp_path / name)
    assert len(rows)


def test_published_values_are_drawn_only_for_the_same_data(tmp_path):
    same = synthetic.run(tmp_path / "a", dataset="totalsegmentator", patients=248, shots=("all",), seeds=(0,))
    figure, rows, _ = drawn("fig2", same, tmp_path / "x")
    assert rows[(rows.panel == "a") & (rows.encoder == "ctfm")].paper.iloc[0] == 0.8981
    assert "auto3dseg\n(quoted)" in [label.get_text() for label in figure.axes[0].get_yticklabels()]
    _, rows, _ = drawn("fig2", synthetic.run(tmp_path / "b"), tmp_path / "y")
    assert rows.paper.isna().all()


def test_looks_keep_grey_for_the_reference():
    looks = _style.looks(["a", "b", "random"], "random")
    assert looks["random"].colour == _style.GREY
    assert len({look.marker for look in looks.values()}) == 3
