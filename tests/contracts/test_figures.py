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
FROZEN = ("fig5", "fig6", "ed4", "ed5", "ed7")  # of tasks that train nothing


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = synthetic.run(tmp_path_factory.mktemp("results"))
    synthetic.training(root)
    synthetic.corpus(root)
    synthetic.tumours(root)
    synthetic.triage(root)
    synthetic.search(root)
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


@pytest.fixture(
    scope="module",
    params=[
        {"encoders": ("ctfm",), "shots": ("all",), "seeds": (0,)},
        {"encoders": ("ctfm", "random", "suprem"), "dataset": "totalsegmentator", "patients": 248, "shots": ("all",)},
        {"encoders": ("a", "b", "random", "suprem"), "shots": ("5", "10", "all")},
        {"patients": 1},
        {"labels": {"liver": "organs"}},
        {"labels": {f"label_{n}": f"group{n % 5}" for n in range(60)}, "shots": ("5",), "seeds": (0,)},
    ],
    ids=["alone", "as-in-the-paper", "two-of-ours", "one-patient", "one-label", "many-labels"],
)
def whatever(request, tmp_path_factory):
    root, kwargs = synthetic.run(tmp_path_factory.mktemp("whatever"), **request.param), request.param
    synthetic.training(root)
    synthetic.corpus(root)
    synthetic.tumours(root, encoders=kwargs.get("encoders", ("ctfm", "random")), n=kwargs.get("patients", 6) % 9)
    synthetic.frozen(root, kwargs.get("encoders", ("ctfm",)), kwargs.get("dataset", "phantoms"))
    synthetic.search(root, kwargs.get("encoders", ("ctfm",)), n=1 + kwargs.get("patients", 6) % 9)
    return synthetic.triage(root, **{key: kwargs[key] for key in ("encoders", "shots", "seeds") if key in kwargs})


@pytest.mark.parametrize("name", FIGURES)
def test_draws_whatever_was_run(name, whatever, tmp_path):
    _, rows, _ = drawn(name, whatever, tmp_path / name)
    assert len(rows)


def test_tumours_are_shown_with_their_failures_and_the_papers_values(tmp_path):
    synthetic.tumours(tmp_path, "msd_lung", dataset="msd_task06_lung", n=13)
    synthetic.tumours(tmp_path, "other")
    figure, rows, _ = drawn("fig3", tmp_path, tmp_path / "x")
    bars = rows[(rows.panel == "a") & (rows.task == "msd_lung")].set_index(["encoder", "metric"])
    assert bars.loc[("ctfm", "dice"), "paper"] == 0.609 and bars.loc[("random", "asd"), "paper"] == 62.1
    assert "missed in 1 of 12 values, which are left out of the mean" in bars.loc[("random", "asd"), "note"]
    assert rows[(rows.panel == "a") & (rows.task == "other")].paper.isna().all()
    assert "1 missed" in texts(figure) and "0 missed" in texts(figure)
    planes = rows[rows.panel != "a"]
    assert set(planes.plane) == {"axial", "coronal", "sagittal"} and len(planes) == 6
    assert planes.set_index(["encoder", "plane"]).estimate["ctfm", "axial"] < 1
    _, rows, _ = drawn("ed3", tmp_path, tmp_path / "y")
    lung = rows[rows.task == "msd_lung"]
    assert lung[lung.missed].patient.tolist() == ["p0"] and lung[lung.missed].value.tolist() == [0]
    assert set(lung[lung.metric == "false_positive_ml"].patient) == {"p12"}
    assert set(lung[lung.metric == "dice"].patient) == {f"p{i}" for i in range(12)}
    figure, _, _ = drawn("fig2", tmp_path, tmp_path / "z")
    assert "needs a segmentation task" in texts(figure)


def test_a_figure_of_tumours_without_planes_says_so(tmp_path):
    synthetic.tumours(tmp_path)
    for path in (tmp_path / "slices").glob("*/*/*.parquet"):
        path.unlink()
    figure, rows, _ = drawn("fig3", tmp_path, tmp_path / "x")
    assert "No planes" in texts(figure) and set(rows.panel) == {"a"}


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


def test_every_number_of_training_cases_has_its_difference_drawn(tmp_path):
    shots = ("5", "10", "20", "50", "100", "all")  # the paper's
    root = synthetic.run(tmp_path, shots=shots, patients=6, labels={"liver": "organs"})
    figure, rows, _ = drawn("fig2", root, tmp_path / "x")
    gain = rows[rows.panel == "g"]
    assert sorted(gain.shots) == sorted(shots) and gain[["low", "high", "seed_low", "seed_high"]].notna().all(axis=None)
    (axes,) = (a for a in figure.axes if "Does pre-training help?" in a.get_title(loc="left"))
    assert [label.get_text() for label in axes.get_xticklabels()] == list(shots)


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
    assert "age and sex: not in the table" in figure.axes[0].get_xlabel()


def test_ages_and_sexes_are_those_of_the_cases_used(tmp_path):
    root = synthetic.run(tmp_path)
    people = [("ok", 40.0, "f"), ("ok", 61.0, "m"), ("ok", 90.0, "f"), ("ok", None, ""), ("excluded", 5.0, "m")]
    cases = [{"case": f"s{n}", "status": s, "split": "test", "age": a, "sex": x} for n, (s, a, x) in enumerate(people)]
    tables.write(tables.of("cases", cases), "cases", root / "datasets/phantoms/cases.parquet")
    figure, rows, _ = drawn("fig2", root, tmp_path / "x")
    assert "age 40 to 90, median 61; 67 % female" in figure.axes[0].get_xlabel()
    told = rows[rows.panel == "a"].set_index("metric")
    assert told.loc["age", ["estimate", "low", "high", "n"]].tolist() == [61, 40, 90, 3]
    assert told.loc["female", "estimate"] == pytest.approx(2 / 3) and told.loc["female", "n"] == 3


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


def test_triage_curves_and_rates_are_those_of_the_tables(tmp_path):
    root = synthetic.triage(tmp_path, encoders=("ctfm", "random", "suprem"), seeds=(0,))
    case = {"status": "ok", "split": "train", "labels": ["abnormal"]}
    tables.write(tables.of("cases", [{**case, "case": "a"}]), "cases", root / "datasets/others/cases.parquet")
    _, rows, _ = drawn("fig4", root, tmp_path / "x")
    assert {panel: set(part.dataset) for panel, part in rows.groupby("panel")} == {
        "a": {"heads", "others"},
        "b": {"others"},  # the one with training cases comes first
        "c": {"heads"},
        "d": {"others"},
    }
    summary = Results(root).summary
    for panel, dataset in (("b", "others"), ("c", "heads")):
        roc = rows[(rows.panel == panel) & (rows.metric == "roc")]
        assert set(roc.shots) == {"all"}  # never the curve of one training set under the legend of another
        for encoder, curve in roc.groupby("encoder"):
            told = summary[(summary.dataset == dataset) & (summary.shots == "all") & (summary.encoder == encoder)]
            (auc,) = told[(told.metric == "auc") & (told.method == "ours") & (told.reference == "")].estimate
            assert np.trapezoid(curve.y, curve.x) == pytest.approx(auc)
    counted = rows[(rows.panel == "a") & (rows.dataset == "heads")].set_index("metric")
    assert (counted.estimate == 0.5).all() and (counted.n == 24).all()
    assert set(rows[rows.panel == "d"].shots) == {"0.1", "all"}
    assert {"ours", "published definition"} <= set(rows[(rows.panel == "b") & (rows.metric == "f1")].method)


def test_triage_on_one_data_set_says_how_to_add_another(tmp_path):
    root = synthetic.triage(tmp_path, shots=("all",))
    for kind, path in (("summary", "summary"), ("metrics", "ctfm/all-0"), ("metrics", "random/all-0")):
        file = root / f"evaluate/head_triage/{path}.parquet"
        table = tables.read(kind, file)
        tables.write(table[table.dataset == "heads"], kind, file)
    figure, rows, _ = drawn("fig4", root, tmp_path / "x")
    assert "tasks.<task>.external" in texts(figure) and "tasks.<task>.shots" in texts(figure)
    assert set(rows.panel) == {"a", "b"}
