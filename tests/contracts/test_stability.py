"""What is said of repeated scans alone: the data set ``rider``, the task ``stability`` and its figure."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ctfm import plugins, tables
from ctfm.datasets import rider
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from ctfm.stages.datasets import datasets
from ctfm.stages.evaluate import measured
from ctfm.tasks import CaseFile, stability
from tests import synthetic
from tests.contracts.test_figures import drawn, texts
from tests.makers import repeated_cases

SMALL = {"patch": (16, 64, 64)}


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')


def corpus(root, series):
    """Write the volumes of a corpus: (patient, study, series, kernel, thickness or the reason of a refusal)."""
    rows = []
    for number, (patient, study, uid, kernel, thickness) in enumerate(series):
        row = {"SeriesInstanceUID": uid, "StudyInstanceUID": study, "PatientID": patient, "collection_id": "c"}
        row |= {"shard": 0, "status": "ok", "reason": "", "detail": "", "path": f"shard=00000/{uid}.b2nd"}
        if isinstance(thickness, str):
            row |= {"status": "quarantined", "reason": thickness, "detail": "why", "path": None}
        else:
            hu = np.random.default_rng(number).integers(-100, 100, (8, 10, 10)).astype(np.int16)
            source = {"ConvolutionKernel": kernel, "thickness_mm": [thickness], "spacing_mm": [thickness, 0.7, 0.7]}
            volume = Volume(hu, np.diag([1.0, 1.0, 3.0, 1.0])[:, [2, 1, 0, 3]])
            (root / "shard=00000").mkdir(parents=True, exist_ok=True)
            store.save(volume, root / row["path"], {"key": uid, "source": source})
        rows.append(row)
    root.mkdir(exist_ok=True)
    tables.write(tables.of("volumes", rows), "volumes", root / "index.parquet")
    return root


def spec(root, spacing=None):
    entry = {"kind": "rider", "root": str(root), "spacing_mm": spacing}
    return json.dumps({"stage": "datasets", "version": 1, "dataset": entry, "name": "d"})


def test_two_series_of_a_patient_are_a_pair_and_all_else_is_listed_with_its_reason(tmp_path):
    root = corpus(
        tmp_path / "volumes",
        [
            ("a", "1.9", "1.91", "B30f", 1.25),  # the later study
            ("a", "1.1", "1.12", "B70f", 2.5),  # two are a pair, alike or not
            ("b", "2.1", "2.11", "B30f", 1.25),
            ("c", "3.1", "3.11", "B30f", 1.25),
            ("c", "3.1", "3.12", "B30f", "truncated"),
            ("d", "4.1", "4.11", "B30f", 2.5),
            ("d", "4.1", "4.12", "B30f", 1.25),
            ("d", "4.2", "4.21", "B30f", 2.5),
            ("d", "4.2", "4.22", "B30f", 1.25),
            ("d", "4.2", "4.23", "B70f", 1.25),
            ("e", "5.1", "5.11", "B30f", 1.25),
            ("e", "5.1", "5.12", "B30f", 1.25),
            ("e", "5.2", "5.21", "B30f", 1.25),
        ],
    )
    datasets(out=tmp_path / "out", spec=spec(root))
    table = pd.read_parquet(tmp_path / "out/cases.parquet").set_index("case")
    good = table[table.status == "ok"]
    assert set(good.index) == {"a", "d"} and set(good.split) == {"test"}
    assert table.reason[table.status != "ok"].to_dict() == {
        "2.11": "pair_of_one",
        "3.11": "pair_of_one",
        "3.12": "scan_refused",
        **dict.fromkeys(("4.11", "4.21", "4.23", "5.11", "5.12", "5.21"), "not_paired"),
    }
    assert table.detail["3.12"] == "truncated: why"
    assert "of another reconstruction (1.25 mm, B30f)" in table.detail["4.11"]
    assert "of 3 series, no two and only two" in table.detail["5.11"]
    first, second = (store.open_volume(tmp_path / "out" / good.loc["d", key]) for key in ("image", "label"))
    for stored, uid in ((first, "4.12"), (second, "4.22")):
        assert np.array_equal(stored.load().array, store.open_volume(root / f"shard=00000/{uid}.b2nd").load().array)
        assert stored.meta["source"]["thickness_mm"] == [1.25]
    found = store.open_volume(tmp_path / "out" / good.loc["a", "image"]).meta["source"]
    assert found["ConvolutionKernel"] == "B70f"  # of the study that comes first
    stamp = (tmp_path / "out/volumes/d.b2nd").stat().st_mtime_ns
    datasets(out=tmp_path / "out", spec=spec(root))
    assert (tmp_path / "out/volumes/d.b2nd").stat().st_mtime_ns == stamp
    datasets(out=tmp_path / "out", spec=spec(root, [3, 2, 2]))
    assert store.open_volume(tmp_path / "out/volumes/d_second.b2nd").spacing == (3, 2, 2)


def test_a_volume_that_is_gone_or_torn_is_told(tmp_path):
    root = corpus(tmp_path / "volumes", [(p, p, f"{p}.{n}", "B", 1.25) for p in "123" for n in (1, 2)])
    (root / "shard=00000/1.2.b2nd").unlink()
    torn = root / "shard=00000/2.1.b2nd"
    torn.write_bytes(torn.read_bytes()[:200])
    datasets(out=tmp_path / "out", spec=spec(root))
    table = pd.read_parquet(tmp_path / "out/cases.parquet").set_index("case")
    assert table.reason.to_dict() == {"1": "unreadable", "2": "unreadable", "3": ""}


def test_a_corpus_that_is_not_there_or_has_no_pair_is_told(tmp_path):
    with pytest.raises(UserError, match=r"index.parquet: no such file; .*rider_lung_ct"):
        rider.check(tmp_path)
    with pytest.raises(UserError, match="no series is usable"):
        rider.check(corpus(tmp_path / "a", [("1", "1", "1", "B", "localizer")]))
    with pytest.raises(UserError, match=r"none of 1 cases is usable .*pair_of_one"):
        datasets(out=tmp_path / "out", spec=spec(corpus(tmp_path / "b", [("1", "1", "1", "B", 1.0)])))


def test_the_ring_gives_everybody_another_one_by_seed():
    names = [f"p{n}" for n in range(31)]
    for seed in range(20):
        other = stability.ring(names, seed)
        assert sorted(other.values()) == sorted(names) and all(a != b for a, b in other.items())
    assert stability.ring(names[::-1], 3) == stability.ring([*names, *names], 3) != stability.ring(names, 4)
    assert stability.ring(["a"], 0) == {"a": "a"}


@pytest.fixture(scope="module")
def done(encoder, tmp_path_factory):
    """Return cases and predictions: four good pairs, one of two patients, one whose second scan is air."""
    folder = tmp_path_factory.mktemp("stability")
    cases = repeated_cases(folder / "cases", 6)
    names = [replace(case, label=case.label) for case in cases]
    store.save(store.open_volume(cases[0].label).load(), cases[4].label, {"key": "wrong", "source": {}})
    air = store.open_volume(cases[5].label).load()
    store.save(Volume(np.full(air.shape, -1000, np.int16), air.affine), cases[5].label, {"key": "air", "source": {}})
    stability.fit(stability.Settings(**SMALL), encoder, [], [], folder, seed=0)
    stability.predict(folder / "model", names, folder / "out")
    return cases, folder


def values(rows, metric):
    return {row["case_id"]: row["value"] for row in rows if row["metric"] == metric}


def test_pairs_are_measured_and_the_wrong_ones_are_flagged_with_their_cause_not_dropped(done):
    cases, folder = done
    rows = stability.measure(stability.Settings(**SMALL), cases, folder / "out")
    assert all(set(values(rows, metric)) == {c.case for c in cases} for metric in {row["metric"] for row in rows})
    for good in ("r0000", "r0001", "r0002", "r0003"):
        assert values(rows, "cosine_registered")[good] > values(rows, "cosine_unregistered")[good]
        assert values(rows, "mse_registered")[good] < values(rows, "mse_random")[good]
    assert values(rows, "outlier") == dict(zip((c.case for c in cases), [0, 0, 0, 0, 1, 1], strict=True))
    assert values(rows, "registration_failed")["r0004"] == values(rows, "registration_failed")["r0005"] == 1
    notes = {row["case_id"]: row["note"] for row in rows if row["metric"] == "outlier"}
    assert notes["r0000"] == "" and notes["r0004"].startswith("registration failed (correlation of HU")
    assert notes["r0005"].startswith("registration failed (no_body: the second scan")
    gone = next(r for r in rows if r["case_id"] == "r0005" and r["metric"] == "cosine_registered")
    assert np.isnan(gone["value"]) and "no_body" in gone["note"]
    assert np.isfinite(values(rows, "cosine_unregistered")["r0005"])
    assert stability.scores(rows)["outlier"] == pytest.approx(2 / 6)
    measured(rows, cases, folder / "out")
    assert stability.picture(stability.Settings(**SMALL), cases[5], folder / "out") is None


def test_means_and_separation_are_those_of_a_plain_loop(done):
    _, folder = done
    rows, facts = stability.read(folder / "out", "r0001")
    found = stability.means(rows)
    kept = rows[rows.counted]
    assert found["cosine_random"] == pytest.approx(np.mean(kept.cosine[kept.comparison == "random"]))
    both = {n: dict(zip(p.patch, p.cosine, strict=True)) for n, p in kept.groupby("comparison")}
    wins = [both["registered"][k] > both["random"][k] for k in both["registered"].keys() & both["random"].keys()]
    assert found["separation"] == pytest.approx(np.mean(wins)) and len(wins) > 1
    assert facts["other"] != "r0001" and facts["sources"][0] == {"spacing_mm": [3.0, 3.0, 3.0]}


def test_an_interrupted_run_goes_on_with_the_same_partners(done, tmp_path):
    cases, folder = done
    first = stability.read(folder / "out", cases[2].case)
    for case in cases:
        if case.case != cases[2].case:
            path = f"{case.case}{stability.SUFFIX}"
            (tmp_path / path).write_bytes((folder / "out" / path).read_bytes())
    stability.predict(folder / "model", [cases[2]], tmp_path)
    again = stability.read(tmp_path, cases[2].case)
    assert again[1] == first[1]
    pd.testing.assert_frame_equal(again[0], first[0])


def test_a_pair_alone_has_nobody_to_be_compared_with(done, tmp_path):
    cases, folder = done
    stability.predict(folder / "model", cases[:1], tmp_path)
    rows, _ = stability.read(tmp_path, cases[0].case)
    assert set(rows.comparison) == {"registered", "unregistered"}
    found = stability.measure(stability.Settings(), cases[:1], tmp_path)
    assert np.isnan(values(found, "separation")[cases[0].case]) and values(found, "outlier")[cases[0].case] == 0


def test_a_scan_that_cannot_be_read_costs_only_its_pair(done, tmp_path):
    cases, folder = done
    torn = tmp_path / "r0009.b2nd"
    torn.write_bytes(b"torn")
    bad = CaseFile("r0009", "r0009", torn, torn)
    stability.predict(folder / "model", [bad], tmp_path / "out")
    rows = stability.measure(stability.Settings(), [bad], tmp_path / "out")
    assert values(rows, "outlier") == {"r0009": 1} and "unreadable" in rows[-1]["note"]
    partner = stability.ring(["r0009", cases[0].case], 0)
    assert partner[cases[0].case] == "r0009"  # whose second scan is torn, which costs that comparison alone
    for case in (cases[0], bad):
        (tmp_path / "both").mkdir(exist_ok=True)
        for path in (case.image, case.label):
            (tmp_path / "both" / path.name).write_bytes(path.read_bytes())
    pair = [
        replace(c, **{k: tmp_path / "both" / getattr(c, k).name for k in ("image", "label")}) for c in (cases[0], bad)
    ]
    (tmp_path / "both/r0009_second.b2nd").write_bytes(b"torn")
    stability.predict(folder / "model", pair, tmp_path / "two")
    assert set(stability.read(tmp_path / "two", cases[0].case)[0].comparison) == {"registered", "unregistered"}
    with pytest.raises(UserError, match=r"r0000.patches.parquet"):
        stability.measure(stability.Settings(), cases[:1], tmp_path)


def test_embeddings_that_are_not_finite_are_told(done, tmp_path):
    rows, facts = stability.read(done[1] / "out", "r0000")
    rows.loc[0, "cosine"] = np.nan
    tables.write(rows, stability.TABLE, tmp_path / f"r0000{stability.SUFFIX}", facts)
    with pytest.raises(UserError, match="not finite; check the encoder"):
        stability.read(tmp_path, "r0000")


def test_what_only_judges_trains_nothing_anew():
    settings = plugins.settings("tasks", "stability")
    judging = {key for key, field in settings.model_fields.items() if field.json_schema_extra == {"of": "evaluate"}}
    assert judging == {"least_ncc", "most_rotation_degrees", "most_translation_mm", "least_overlap"}


def test_only_a_pair_is_stored(tmp_path):
    with pytest.raises(Quarantine, match="not_paired: why"):
        rider.keep(rider.Pair("a", "a", "test", tmp_path, None, reason="not_paired", detail="why"), None, tmp_path)


def test_the_figure_shows_every_pair_and_numbers_the_outliers(tmp_path):
    synthetic.repeated(tmp_path)
    figure, rows, _ = drawn("ed7", tmp_path, tmp_path / "x")
    shown = rows[rows.panel.isin(["a", "b"])]
    assert set(shown.encoder) == {"ctfm"} and shown.groupby(["panel", "comparison"]).case.nunique().eq(9).all()
    assert set(shown[shown.outlier == 1].case) == {"r0"}
    patches = tables.read("patch_pairs", tmp_path / "adapt/test_retest/ctfm/all-0/predictions/r3.patches.parquet")
    one = shown[(shown.case == "r3") & (shown.panel == "a")].set_index("comparison")
    for name, own in patches.groupby("comparison"):
        assert one.loc[name, "median"] == pytest.approx(np.median(own.cosine))
        assert one.loc[name, "third"] == pytest.approx(np.quantile(own.cosine, 0.75))
    assert "1  r0: registration failed (correlation of HU 0.50)" in texts(figure)
    assert set(rows[rows.panel == "c"].encoder) == {"ctfm", "random"}


def test_the_figure_without_outliers_says_so(tmp_path):
    synthetic.repeated(tmp_path, ("random",), pairs=1)
    path = tmp_path / "evaluate/test_retest/random/all-0.parquet"
    table = tables.read("metrics", path)
    judged = table.metric.isin(["outlier", "registration_failed"])
    tables.write(table.assign(value=table.value.where(~judged, 0.0), note=""), "metrics", path)
    figure, rows, _ = drawn("ed7", tmp_path, tmp_path / "x")
    assert "No pair is an outlier." in texts(figure) and set(rows.encoder) == {"random"}
