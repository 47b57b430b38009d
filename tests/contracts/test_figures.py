"""Every file in figures/ keeps the contract; a new figure is tested by being there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ctfm import plugins, tables
from ctfm.config import Figures
from ctfm.figures import _segmentation, _style
from ctfm.figures._results import Results
from tests import synthetic

FIGURES = plugins.names("figures")
SETTINGS = Figures(dpi=80)
FROZEN = ("fig5", "fig6", "ed4", "ed5")  # of tasks that train nothing


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = synthetic.run(tmp_path_factory.mktemp("results"))
    synthetic.training(root)
    return synthetic.frozen(root)


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
        {"encoders": ("a", "b", "random", "suprem"), "shots": ("5", "10", "all")},
        {"patients": 1},
        {"labels": {"liver": "organs"}},
        {"labels": {f"label_{n}": f"group{n % 5}" for n in range(60)}, "shots": ("5",), "seeds": (0,)},
    ],
    ids=["alone", "as-in-the-paper", "two-of-ours", "one-patient", "one-label", "many-labels"],
)
def test_draws_whatever_was_run(name, kwargs, tmp_path):
    root = synthetic.run(tmp_path, **kwargs)
    synthetic.training(root)
    if name in FROZEN:
        synthetic.frozen(root, kwargs.get("encoders", ("ctfm",)), kwargs.get("dataset", "phantoms"))
    _, rows, _ = drawn(name, root, tmp_path / name)
    assert len(rows)


def ticks(figure, letter):
    """Return the names on the vertical axis of a panel."""
    (axes,) = (a for a in figure.axes if a.get_title(loc="left").startswith(f"$\\bf{{{letter}}}$"))
    return [label.get_text() for label in axes.get_yticklabels()]


def test_published_values_are_drawn_only_for_the_same_data(tmp_path):
    same = synthetic.run(tmp_path / "a", dataset="totalsegmentator", patients=248, shots=("all",), seeds=(0,))
    figure, rows, _ = drawn("fig2", same, tmp_path / "x")
    assert rows[(rows.panel == "b") & (rows.encoder == "ctfm")].paper.iloc[0] == 0.8981
    assert ticks(figure, "b") == [
        "random",
        "ctfm",
        "Auto3DSeg\n(quoted)",
        "VISTA3D\n(quoted)",
        "TotalSegmentator\n(quoted, other split)",
    ]
    quoted = rows[(rows.panel == "b") & (rows.method == "quoted")].set_index("encoder")
    assert "not comparable" in quoted.loc["nnunet_totalsegmentator"].note
    figure, rows, _ = drawn("fig2", synthetic.run(tmp_path / "b"), tmp_path / "y")
    assert rows.paper.isna().all()
    assert ticks(figure, "b") == ["random", "ctfm"]


def test_few_shot_differences_have_intervals_over_patients_and_every_seed(tmp_path):
    root = synthetic.run(tmp_path, encoders=("ctfm", "random", "suprem"), shots=("5", "10", "all"), seeds=(0, 1, 2))
    _, rows, _ = drawn("fig2", root, tmp_path / "x")
    gain = rows[rows.panel == "g"]
    assert set(gain.shots) == {"5", "10", "all"}
    assert set(gain.encoder) == {"ctfm"}
    assert set(gain.reference) == {"random"}
    assert (gain.low < gain.estimate).all()
    assert (gain.seed_low < gain.seed_high).all()
    assert all(len(text.split()) == 3 for text in gain.seed_estimates)
    wins = rows[rows.panel == "d"]
    assert set(wins.reference) == {"random", "suprem"}
    _, rows, _ = drawn("ed2", root, tmp_path / "y")
    assert set(rows[rows.panel == "b"].group) == {"cardiac", "organs", "ribs"}
    _, rows, _ = drawn("ed1", root, tmp_path / "z")
    assert set(rows.panel) == {"a", "b", "c"}
    assert rows.group.str.startswith("label:").all()


def test_a_second_task_has_a_panel_and_the_same_colours(tmp_path):
    root = synthetic.run(tmp_path, encoders=("ctfm", "random", "suprem"), shots=("all",))
    other = synthetic.run(tmp_path / "other", encoders=("ctfm", "random"), shots=("all",), labels={"liver": "organs"})
    for path in (other / "evaluate/wholebody").glob("**/*.parquet"):
        kind = "summary" if path.stem == "summary" else "metrics"
        table = tables.read(kind, path).assign(task="abdomen")
        tables.write(table, kind, root / "evaluate/abdomen" / path.relative_to(other / "evaluate/wholebody"))
    _, rows, _ = drawn("fig2", root, tmp_path / "x")
    assert set(rows[rows.panel == "c"].task) == {"abdomen"}
    assert set(rows[rows.panel == "b"].task) == {"wholebody"}
    whole, abdomen = _segmentation.views(Results(root))
    assert all(abdomen.looks[name] == whole.looks[name] for name in abdomen.looks)


def test_cases_are_counted_from_their_table(tmp_path):
    root = synthetic.run(tmp_path)
    cases = [{"case": f"s{n}", "status": "ok", "split": "train" if n else "test"} for n in range(3)]
    cases.append({"case": "bad", "status": "excluded", "split": ""})
    tables.write(tables.of("cases", cases), "cases", root / "datasets/phantoms/cases.parquet")
    figure, rows, _ = drawn("fig2", root, tmp_path / "x")
    counted = rows[(rows.panel == "a") & (rows.metric == "cases")].set_index("group").estimate.to_dict()
    assert counted == {"train": 2, "test": 1}
    assert "5 labels; 2 train, 1 test" in figure.axes[0].get_title(loc="left")


def test_a_difference_is_sure_over_patients_and_over_seeds():
    rows = pd.DataFrame(
        {
            "p_holm": [0.01, 0.01, 0.2, 0.01],
            "seed_low": [0.1, -0.1, 0.1, np.nan],
            "seed_high": [0.2, 0.1, 0.2, np.nan],
        }
    )
    assert _segmentation.sure(rows).tolist() == [True, False, False, False]
    assert _segmentation.significant(rows).tolist() == [True, True, False, True]
    assert _segmentation.sure(rows.assign(p_holm=np.nan)).all()


def test_looks_keep_grey_for_the_reference():
    looks = _style.looks(["a", "b", "random"], "random")
    assert looks["random"].colour == _style.GREY
    assert len({look.marker for look in looks.values()}) == 3
