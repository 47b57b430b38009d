"""What is said of the kinds of task that train nothing: ``retrieve`` and ``cluster``."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, normalized_mutual_info_score, silhouette_score

from ctfm import tables, weights
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from ctfm.stages.adapt import predict
from ctfm.tasks import CaseFile, _vectors, cluster, retrieve
from tests import synthetic
from tests.makers import cohort_cases, stored_cases

SMALL = {"patch": (16, 32, 32), "overlap": 0.0}


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    torch.set_num_threads(1)


def values(rows, metric, label="all"):
    return {row["case_id"]: row["value"] for row in rows if (row["metric"], row["label"]) == (metric, label)}


def test_every_query_is_measured_as_by_a_plain_loop(tmp_path):
    array, about = synthetic.organs()
    rows = retrieve.measure(retrieve.Settings(), [], synthetic.vectors(tmp_path, array, about))
    names = [one["cohorts"]["all"]["attributes"]["organ"] for one in about.values()]
    for distance, suffix in (("cosine", ""), ("euclidean", "_euclidean")):
        away = cdist(array[20:], array[:20], distance)
        for number, (case, name) in enumerate(list(zip(about, names, strict=True))[20:]):
            alike = np.array([other == name for other in names[:20]])
            top = alike[np.argsort(away[number])]
            assert values(rows, f"precision_at_3{suffix}")[case] == pytest.approx(top[:3].mean())
            whole = average_precision_score(alike, -away[number])
            assert values(rows, f"average_precision{suffix}")[case] == pytest.approx(whole)
            assert values(rows, f"average_precision{suffix}_by_cohort", name)[case] == pytest.approx(whole)
            listed = average_precision_score(top[:10], -np.arange(10)) if top[:10].any() else 0
            assert values(rows, f"average_precision_at_10{suffix}_published")[case] == pytest.approx(listed)
    assert len(values(rows, "hit_rate_at_5_published")) == 10
    scores = retrieve.scores(rows)
    assert scores["average_precision"] == pytest.approx(np.mean(list(values(rows, "average_precision").values())))
    assert not any("by_cohort" in metric for metric in scores)


def lesions():
    """Return what is known of five scans in two cohorts; 'b' asks in both, 'c' asks in one and answers in the other."""
    known = {
        "a": {"x": (False, "1", "3"), "y": (False, "0", None)},
        "b": {"x": (True, "1", "3"), "y": (True, "0", None)},
        "c": {"x": (True, "0", None), "y": (False, "1", "2")},
        "d": {"x": (False, "0", None)},
        "e": {"x": (False, "1", "4"), "y": (False, "0", None)},
    }
    return {
        case: {
            "patient": case,
            "cohorts": {
                cohort: {"query": query, "attributes": {"lesion_flag": flag, "lesion_group": group}}
                for cohort, (query, flag, group) in cohorts.items()
            },
        }
        for case, cohorts in known.items()
    }


def test_cohorts_are_ranked_by_themselves_and_unknown_attributes_match_nothing(tmp_path):
    array = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 1]])  # from b: a, e, (c), d
    rows = retrieve.measure(
        retrieve.Settings(aggregation=("mean",), distances=("cosine",)),
        [],
        synthetic.vectors(tmp_path, array, lesions()),
    )
    flag = values(rows, "precision_at_3_by_cohort", "lesion_flag, x")
    assert flag == pytest.approx({"b": 2 / 3, "c": 1 / 3})  # b: a, e alike, d not; c: d alike, e and a not
    assert values(rows, "average_precision_by_cohort", "lesion_flag, y")["b"] == pytest.approx(1)  # a, e; then c
    group = values(rows, "average_precision_by_cohort", "lesion_group, x")
    assert group["b"] == 1 and np.isnan(group["c"])  # that of c is not known
    assert values(rows, "precision_at_3_published_by_cohort", "lesion_group, x")["c"] == 0
    told = {row["note"] for row in rows if row["case_id"] == "c" and row["label"] == "lesion_group"}
    assert all("it is not known" in note for note in told)
    ours, theirs = (
        {row["patient"] for row in rows if row["metric"] == name and row["label"] == "lesion_flag"}
        for name in ("precision_at_3", "precision_at_3_published")
    )
    assert ours == {"b", "c"} and theirs == {"x/b", "y/b", "x/c"}  # the paper averages over queries


def test_the_aggregation_is_chosen_without_the_queries(tmp_path):
    array, about = synthetic.organs(60, 40)
    noise = np.random.default_rng(1).normal(size=array.shape)
    arrays = {"min": noise.copy(), "mean": array.copy(), "max": noise.copy()}
    arrays["min"][40:], arrays["mean"][40:] = 0, noise[40:]
    for corpus_only in (False, True):  # for the queries min would be right, and their vectors change nothing
        if corpus_only:
            arrays = {how: np.where(np.arange(60)[:, None] < 40, a, 5.0) for how, a in arrays.items()}
        vectors = _vectors.load(synthetic.vectors(tmp_path / str(corpus_only), arrays, about))
        how, why = retrieve.choose(retrieve.Settings(), vectors, "cosine")
        assert how == "mean" and "chosen within the corpus" in why
    assert retrieve.choose(retrieve.Settings(aggregation=("max",)), vectors, "cosine") == (
        "max",
        "aggregation max, as set",
    )
    asked = retrieve.queries(list(about.values()), within_corpus=True)
    assert {q.place for q in asked} | set(np.concatenate([q.corpus for q in asked])) == set(range(40))
    assert all(q.place not in q.corpus for q in asked)


def test_a_patient_who_asks_has_no_part_in_the_choice():
    asked = retrieve.queries(list(lesions().values()), within_corpus=True)
    assert {q.place for q in asked} | {int(p) for q in asked for p in q.corpus} == {0, 3, 4}


def test_embeddings_are_made_once_and_are_the_encoders(encoder, tmp_path):
    cases = cohort_cases(tmp_path / "cases", 6)
    settings = retrieve.Settings(**SMALL)
    facts = retrieve.fit(settings, encoder, cases[:3], cases[3:4], tmp_path, seed=0)
    stamp = (tmp_path / "model/min.parquet").stat().st_mtime_ns
    assert retrieve.fit(settings, encoder, cases[:3], cases[3:4], tmp_path, seed=1) == facts
    assert (tmp_path / "model/min.parquet").stat().st_mtime_ns == stamp
    retrieve.predict(tmp_path / "model", cases[4:], tmp_path / "out")
    vectors = _vectors.load(tmp_path / "out")
    assert vectors.cases == [case.case for case in cases]
    assert (vectors.arrays["min"] <= vectors.arrays["mean"]).all()
    assert (vectors.arrays["mean"] <= vectors.arrays["max"]).all()
    table = tables.read("embeddings", tmp_path / "out/mean.parquet")
    assert set(table["encoder"]) == {encoder.name} and table["sha256"].str.len().eq(64).all()
    other = retrieve.fit(retrieve.Settings(**{**SMALL, "overlap": 0.5}), encoder, cases[:4], [], tmp_path, seed=0)
    assert other["fingerprint"] != facts["fingerprint"]


def test_the_picture_shows_who_asks_and_what_is_nearest(encoder, tmp_path):
    cases = cohort_cases(tmp_path / "cases", 6)
    settings = retrieve.Settings(**SMALL)
    retrieve.fit(settings, encoder, cases[:4], [], tmp_path, seed=0)
    retrieve.predict(tmp_path / "model", cases[4:], tmp_path / "out")
    figure = retrieve.picture(settings, cases[4], tmp_path / "out")
    rows = retrieve.measure(settings, [], tmp_path / "out")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "c0004\nliver" and sorted(titles[1:]) == [f"c000{n}" for n in range(4)]
    hits = [axes.spines["left"].get_edgecolor()[1] > 0.5 for axes in figure.axes[1:4]]  # green
    assert np.mean(hits) == pytest.approx(values(rows, "precision_at_3")["c0004"])
    assert all(np.ptp(axes.images[0].get_array()) > 0 for axes in figure.axes)
    cases[0].image.unlink()
    assert retrieve.picture(settings, cases[4], tmp_path / "out") is not None
    assert retrieve.picture(settings, cases[1], tmp_path / "out") is None


def test_a_cube_goes_to_the_encoder_as_it_is(encoder, tmp_path):
    cube = np.random.default_rng(0).integers(0, 256, (28, 28, 28), dtype=np.uint8)
    meta = {"key": "k", "intensity": "unit", "cohorts": {"all": {"query": False, "attributes": {"organ": "liver"}}}}
    store.save(Volume(cube, np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]]), tmp_path / "c.b2nd", meta)
    case = CaseFile("c", "c", tmp_path / "c.b2nd", tmp_path / "c.b2nd")
    retrieve.fit(retrieve.Settings(), encoder, [case], [], tmp_path, seed=0)
    (found,) = tables.read("embeddings", tmp_path / "model/max.parquet")["embedding"]
    with torch.no_grad():
        maps = weights.load_encoder(encoder).module(torch.from_numpy(cube / np.float32(255))[None, None])
    assert np.allclose(found, maps[-1].mean((2, 3, 4))[0].numpy(), atol=1e-6)


def test_numbers_of_clusters_are_of_the_embeddings(tmp_path):
    array, about = synthetic.organs()
    rows = cluster.measure(cluster.Settings(), [], synthetic.vectors(tmp_path, array, about))
    names = [one["cohorts"]["all"]["attributes"]["organ"] for one in about.values()]
    found = cluster.scores(rows)
    assert set(found) == {"silhouette", "knn_purity", "nmi"}
    assert found["silhouette"] == pytest.approx(silhouette_score(array, names))
    assert len(values(rows, "silhouette_by_label", "liver")) == 10
    clusters = {row["case_id"]: row["value"] for row in rows if row["metric"] == "nmi"}
    assert -0.1 < np.mean(list(clusters.values())) <= normalized_mutual_info_score(names, names)


def test_scans_are_placed_on_planes(encoder, tmp_path):
    cases = cohort_cases(tmp_path / "cases", 6)
    settings = cluster.Settings(**SMALL, perplexities=(1.5, 1.0))
    cluster.fit(settings, encoder, cases[:4], [], tmp_path, seed=0)
    cluster.predict(tmp_path / "model", cases[4:], tmp_path / "out")
    points = tables.read("points", tmp_path / "out/points.parquet")
    assert len(points) == 12 and set(points["perplexity"]) == {1.5, 1.0} and np.isfinite(points[["x", "y"]]).all(None)
    assert dict(zip(points["case"], points["label"], strict=True))["c0001"] == "spleen"


def test_bad_input_is_told(encoder, tmp_path):
    with pytest.raises(UserError, match=r"does not say what is alike.*'organmnist3d' or 'mir3d'"):
        retrieve.fit(retrieve.Settings(**SMALL), encoder, stored_cases(tmp_path, 1), [], tmp_path, seed=0)
    with pytest.raises(UserError, match="no case to search in"):
        retrieve.fit(retrieve.Settings(**SMALL), encoder, [], [], tmp_path, seed=0)
    with pytest.raises(UserError, match="run 'ctfm adapt' first"):
        retrieve.measure(retrieve.Settings(), [], tmp_path)
    array, about = synthetic.organs()
    array[3, 2] = np.nan
    with pytest.raises(UserError, match="the vector of 'c03' is not finite"):
        retrieve.measure(retrieve.Settings(), [], synthetic.vectors(tmp_path / "nan", array, about))
    array, about = synthetic.organs(20, 20)
    with pytest.raises(UserError, match="no scan asks"):
        retrieve.measure(retrieve.Settings(), [], synthetic.vectors(tmp_path / "none", array, about))
    with pytest.raises(UserError, match="only 0 scans have the attribute 'lesion'"):
        cluster.measure(cluster.Settings(attribute="lesion"), [], tmp_path / "none")
    table = tables.read("embeddings", tmp_path / "none/min.parquet")
    tables.write(table.iloc[1:], "embeddings", tmp_path / "none/min.parquet")
    with pytest.raises(UserError, match="not one vector for each scan"):
        retrieve.measure(retrieve.Settings(), [], tmp_path / "none")


def test_scans_of_ones_own_are_for_another_command(encoder, tmp_path):
    cases = cohort_cases(tmp_path / "cases", 3)
    retrieve.fit(retrieve.Settings(**SMALL), encoder, cases, [], tmp_path, seed=0)
    with pytest.raises(UserError, match="'retrieve' labels no scans; 'ctfm embed'"):
        predict([cases[0].image], model=tmp_path, out=tmp_path / "out")
    shutil.rmtree(tmp_path / "model")
