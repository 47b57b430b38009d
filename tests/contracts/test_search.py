"""What is said of the kind of task ``search`` alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from ctfm import tables, weights
from ctfm.embedding import dense, patches, read, similarity
from ctfm.embedding.encode import Encoder
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from ctfm.stages.evaluate import measured
from ctfm.tasks import _finding, _heat, search
from ctfm.tasks._heat import Matches
from tests.makers import cohort_cases, found_cases, stored_cases

SMALL = {"patch": (8, 8, 8), "overlap": 0.5, "spacing_mm": (2, 2, 2), "crop": "volume", "shown": ("spleen",)}


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return stored_cases(tmp_path_factory.mktemp("scans"), 6)


def run(cases, encoder, out, asking=4, seed=0, **options):
    """Let the first cases ask and search in the others; return the settings and the facts."""
    settings = search.Settings(**{**SMALL, **options})
    facts = search.fit(settings, encoder, cases[: asking - 1], cases[asking - 1 : asking], out, seed=seed)
    search.predict(out / "model", cases[asking:], out / "predictions")
    return settings, facts


def values(rows, metric, case, label="spleen"):
    found = [row for row in rows if (row["metric"], row["case_id"], row["label"]) == (metric, case, label)]
    return {row["note"]: row["value"] for row in found}


@pytest.fixture(scope="module")
def done(scans, encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("done")
    settings, facts = run(scans, encoder, out, queries=2)
    return settings, facts, out, search.measure(settings, scans[4:], out / "predictions")


def test_matches_are_those_of_a_plain_loop(done, scans, encoder, tmp_path):
    """Patches cut one by one from the stored array, MONAI-like starts, SciPy's cosine, centroids by SciPy."""
    _, facts, _, rows = done
    module = weights.load_encoder(encoder).module
    hu = {case.case: store.open_volume(case.image).load() for case in scans}
    ids = {case.case: store.open_volume(case.label).load() for case in scans}

    def embedded(case, start):
        padded = np.pad(np.clip((hu[case].array.astype(np.float32) + 1024) / 3072, 0, 1), 16)
        cut = padded[tuple(slice(s + 16, s + 24) for s in start)]
        with torch.no_grad():
            return module(torch.from_numpy(cut.copy())[None, None])[-1].mean((2, 3, 4))[0].numpy()

    for target in scans[4:]:
        shape = ids[target.case].shape
        starts = np.array([c for c in np.ndindex(*shape) if not any(i % 4 for i in c)])
        starts = starts[(starts < np.maximum(1, np.array(shape) - 8 + 4)).all(axis=1)]
        vectors = np.stack([embedded(target.case, start) for start in starts])
        for query in facts["queries"]:
            middle = np.array(ndimage.center_of_mass(ids[query].array == 1))
            asked = embedded(query, np.rint(middle - 3.5).astype(int))
            best = starts[cdist(asked[None], vectors, "cosine")[0].argmin()] + 3.5
            truth = np.array(ndimage.center_of_mass(ids[target.case].array == 1))
            away = np.linalg.norm(2 * (best - truth)) / 10
            here = values(rows, "centroid_distance_cm", target.case)
            assert here[f"query {query}"] == pytest.approx(away, abs=1e-4)
            voxel = np.floor(best + 0.5).astype(int)
            inside = (voxel < shape).all() and ids[target.case].array[tuple(voxel)] == 1
            assert values(rows, "inside", target.case)[f"query {query}"] == inside


def test_a_scan_that_was_moved_and_thinned_is_found_where_it_is(scans, encoder, tmp_path):
    """The target is the scan that asks, elsewhere in the room; the organ's patch is one of its grid."""
    image, label = (store.open_volume(path).load() for path in (scans[0].image, scans[0].label))
    array = np.zeros_like(label.array)
    array[8:16, 8:16, 4:12] = 1  # its centroid is the middle of the patch that starts at (8, 8, 4)
    meta = store.open_volume(scans[0].label).meta
    moved = image.affine.copy()
    moved[:3, 3] += (130, -77, 412)
    made = []
    for name, affine in (("here", image.affine), ("there", moved)):
        paths = tmp_path / f"{name}.b2nd", tmp_path / f"{name}_label.b2nd"
        store.save(Volume(image.array, affine), paths[0])
        store.save(Volume(array, affine), paths[1], meta)
        made.append(replace(scans[0], case=name, patient=name, image=paths[0], label=paths[1]))
    settings, _ = run(made, encoder, tmp_path, asking=1)
    rows = search.measure(settings, made[1:], tmp_path / "predictions")
    assert values(rows, "centroid_distance_cm", "there")["query here"] == pytest.approx(0, abs=1e-6)
    assert values(rows, "inside", "there") == {"query here": 1.0}
    match = Matches(tmp_path / "predictions", "there").table.iloc[0]
    assert match.similarity == pytest.approx(1, abs=1e-5)
    assert values(rows, "centroid_distance_floor_cm", "there")[""] == pytest.approx(0, abs=1e-6)


def test_the_target_is_embedded_once_and_the_best_is_that_of_similarity(done, scans, encoder, tmp_path, monkeypatch):
    settings, _, out, _ = done
    calls = []
    embed = dense.embed
    monkeypatch.setattr(dense, "embed", lambda *args: calls.append(1) or embed(*args))
    search.predict(out / "model", scans[4:5], tmp_path)
    assert len(calls) == 1
    used = _finding.encoder(encoder, settings)
    scan = read.prepare(scans[4].image, used.preprocess, tmp_path, crop="volume")
    found, queries = embed(used, scan, settings), tables.read("embeddings", out / "model/queries.parquet")
    for row, vector in zip(Matches(tmp_path, scans[4].case).table.itertuples(), queries["embedding"], strict=True):
        (best,) = similarity.best(similarity.cosines(vector, found), found)
        assert (row.l_mm, row.p_mm, row.s_mm) == pytest.approx(best.point_mm)
        assert row.similarity == pytest.approx(best.similarity, abs=1e-6)


def test_all_encoders_are_asked_by_the_same_scans_and_seeds_draw_others(scans, encoder, tmp_path):
    names = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 3)):
        names[name] = tuple(run(scans, encoder, tmp_path / name, queries=1, seed=seed)[1]["queries"])
    assert names["a"] == names["b"] and len(set(names.values())) > 1
    table = tables.read("embeddings", tmp_path / "a/model/queries.parquet")
    assert sorted(table["label"]) == ["aorta", "liver", "spleen"] and set(table["encoder"]) == {encoder.name}
    assert run(scans, encoder, tmp_path / "f", scans=("s0002",), organs=("cardiac",))[1]["queries"] == ["s0002"]
    table = tables.read("embeddings", tmp_path / "f/model/queries.parquet")
    assert table["label"].tolist() == ["aorta"]


def test_an_organ_is_asked_for_by_the_first_scans_that_show_it(scans, encoder, tmp_path):
    without = []
    for case in scans[:3]:
        label, meta = store.open_volume(case.label).load(), store.open_volume(case.label).meta
        array = np.where(label.array == 1, 0, label.array).astype(np.uint8)
        path = tmp_path / case.label.name
        store.save(Volume(array, label.affine), path, meta)
        without.append(replace(case, label=path))
    run([*without, *scans[3:]], encoder, tmp_path / "out", queries=2)
    table = tables.read("embeddings", tmp_path / "out/model/queries.parquet")
    asks = table.groupby("label")["case"].agg(list)
    assert asks["spleen"] == ["s0003"] and len(asks["liver"]) == 2
    settings = search.Settings(**SMALL, queries=2)
    targets = [*scans[4:5], replace(without[0], case="t", patient="t")]
    search.predict(tmp_path / "out/model", targets, tmp_path / "out/predictions")
    rows = search.measure(settings, targets, tmp_path / "out/predictions")
    assert values(rows, "centroid_distance_cm", "t") == {
        "the target does not show it": pytest.approx(np.nan, nan_ok=True)
    }


def test_with_all_targets_nobody_is_searched_in_the_own_scan(scans, encoder, tmp_path):
    settings, facts = run(scans, encoder, tmp_path, targets="all", queries=2)
    rows = search.measure(settings, scans[4:], tmp_path / "predictions")
    assert {row["case_id"] for row in rows} == {case.case for case in scans}
    for query in facts["queries"]:
        here = values(rows, "centroid_distance_cm", query)
        assert f"query {query}" not in here and len(here) == 1
    assert len(values(rows, "centroid_distance_cm", scans[5].case)) == 2
    elsewhere = tmp_path / "external/other"
    search.predict(tmp_path / "model", scans[4:], elsewhere)
    assert {row["case_id"] for row in search.measure(settings, scans[4:], elsewhere)} == {"s0004", "s0005"}


def test_what_can_not_be_searched_is_listed_and_the_rest_goes_on(scans, encoder, tmp_path, caplog, monkeypatch):
    broken = tmp_path / "broken.b2nd"
    broken.write_bytes(scans[4].image.read_bytes()[:400])
    embed = dense.embed

    def with_nan(used, scan, settings):
        found = embed(used, scan, settings)
        if scan.volume.meta.get("nan"):
            found.vectors[2] = np.nan
        return found

    monkeypatch.setattr(dense, "embed", with_nan)
    bad = tmp_path / "bad.b2nd"
    store.save(store.open_volume(scans[4].image).load(), bad, {"nan": True})
    targets = [replace(scans[4], case="broken", image=broken), replace(scans[4], case="bad", image=bad), scans[5]]
    settings, _ = run([*scans[:4], *targets], encoder, tmp_path / "out", queries=1)
    rows = search.measure(settings, targets, tmp_path / "out/predictions")
    failed = {row["case_id"]: row["note"] for row in rows if row["metric"] == "failed"}
    assert failed["broken"].startswith("unreadable: ")
    assert re.fullmatch(r"not_finite: the embeddings of patches: 1 of \d+ are not finite", failed["bad"])
    assert {row["case_id"] for row in rows} == {"broken", "bad", "s0005"}
    assert measured(rows, targets, tmp_path / "out/predictions") == rows
    assert "bad can't be searched" in caplog.text
    assert search.scores(rows)["centroid_distance_cm"] >= 0 and "failed" not in search.scores(rows)
    monkeypatch.setattr(dense, "embed", embed)  # mended, a second start searches what failed
    search.predict(tmp_path / "out/model", targets[1:2], tmp_path / "out/predictions")
    assert not list((tmp_path / "out/predictions").glob("bad.failed.json"))


def test_a_scan_that_can_not_ask_is_passed_over_and_told(scans, encoder, tmp_path, monkeypatch):
    at, first = dense.at, run(scans, encoder, tmp_path / "a", queries=1)[1]["queries"]

    def broken(used, scan, *more):
        mine = store.open_volume(next(case.image for case in scans if case.case == first[0])).load()
        vector = at(used, scan, *more)
        return vector * np.nan if np.array_equal(scan.volume.load().array, mine.array) else vector

    monkeypatch.setattr(dense, "at", broken)
    facts = run(scans, encoder, tmp_path / "b", queries=1)[1]
    assert first[0] not in facts["queries"] and facts["queries"]
    assert facts["refused"][first[0]]["reason"] == "not_finite"
    monkeypatch.setattr(dense, "at", lambda *args: at(*args) * np.nan)
    with pytest.raises(UserError, match="none of 4 scans can ask"):
        run(scans, encoder, tmp_path / "c")


def test_nothing_is_done_twice_and_what_changed_is_done_anew(scans, encoder, tmp_path):
    _, facts = run(scans, encoder, tmp_path, targets="all", queries=1)
    files = [tmp_path / "model/queries.parquet"]
    files += [path for folder in ("model/targets", "predictions") for path in (tmp_path / folder).glob("*")]
    stamps = [path.stat().st_mtime_ns for path in files]
    assert run(scans, encoder, tmp_path, targets="all", queries=1)[1] == facts
    assert [path.stat().st_mtime_ns for path in files] == stamps and len(files) == 7
    assert run(scans, encoder, tmp_path, queries=2)[1]["fingerprint"] != facts["fingerprint"]
    assert not (tmp_path / "model/targets").exists()


def test_planes_show_the_query_and_the_heat_of_one_target(done, scans, tmp_path):
    settings, _, out, _ = done
    asks, target = search.slices(settings, scans[4:], out / "predictions")
    run_columns = {"task": "t", "dataset": "d", "encoder": "e", "shots": "all", "seed": 0}
    tables.write(
        tables.of("slices", [{**row, **run_columns} for row in (asks, target)]), "slices", tmp_path / "s.parquet"
    )
    sizes = {case.case: (store.open_volume(case.label).load().array == 1).sum() for case in scans[4:]}
    assert target["case_id"] == min(sizes, key=lambda name: (sizes[name], name)) and asks["heat"] == []
    case = next(case for case in scans if case.case == target["case_id"])
    found = Matches(out / "predictions", case.case)
    shown = found.shown("spleen")
    assert asks["case_id"] == shown.query
    label = store.open_volume(case.label).load()
    y = round(float(ndimage.center_of_mass(label.array == 1)[1]))
    heat = np.reshape(target["heat"], (target["rows"], target["columns"]))[::-1]
    centres = (found.searched.centres_mm - label.affine[:3, 3]) @ np.linalg.inv(label.affine[:3, :3]).T
    for z, x in ((0, 0), (5, 9), (17, 20)):  # the mean over the patches that hold the voxel
        holds = (np.abs(centres - (z, y, x)) < 4).all(axis=1)
        assert heat[z, x] == pytest.approx(np.mean(np.array(shown.similarities)[holds]), abs=1e-5)
    best = centres[int(np.argmax(shown.similarities))]
    assert target["mark"] == [label.shape[0] - 1 - int(np.floor(best[0] + 0.5)), int(np.floor(best[2] + 0.5))]
    truth = np.reshape(target["truth"], (target["rows"], target["columns"]))[::-1]
    assert np.array_equal(truth, label.array[:, y] == 1)
    assert search.slices(settings.model_copy(update={"shown": ("no_organ",)}), scans[4:], out / "predictions") == []


def test_the_picture_shows_both_scans(done, scans):
    settings, _, out, _ = done
    figure = search.picture(settings, scans[4], out / "predictions")
    assert [axes.get_title() for axes in figure.axes][1] == "s0004: is searched for spleen"
    assert search.picture(search.Settings(shown=("liver",)), scans[4], out / "predictions") is None


def test_axes_can_run_as_in_the_published_run(scans, encoder):
    settings = search.Settings(**SMALL, orientation="RAS")
    used, plain = _finding.encoder(encoder, settings), Encoder(encoder)
    x = torch.rand(2, 1, 16, 24, 32)
    turned = torch.flip(x.permute(0, 1, 4, 3, 2), (2, 3))
    assert torch.allclose(used(x).mean((2, 3, 4)), plain(turned).mean((2, 3, 4)), atol=1e-6)
    assert not torch.allclose(used(x).mean((2, 3, 4)), plain(x).mean((2, 3, 4)), atol=1e-4)
    assert used(x).shape == plain(x).shape and used.preprocess.spacing_mm == (2, 2, 2)


def test_bad_input_of_search_is_told(scans, encoder, tmp_path):
    with pytest.raises(UserError, match="no case that could ask"):
        search.fit(search.Settings(**SMALL), encoder, [], [], tmp_path, seed=0)
    with pytest.raises(UserError, match=r"scans: 's0009' is no case of the training.*did you mean 's000"):
        run(scans, encoder, tmp_path, scans=("s0009",))
    with pytest.raises(UserError, match=r"'hart' is neither a label nor a group"):
        run(scans, encoder, tmp_path, organs=("hart",))
    with pytest.raises(UserError, match="predict this case first"):
        search.measure(search.Settings(**SMALL), scans[:1], tmp_path / "nothing")
    with pytest.raises(UserError, match="findings of whole scans"):
        run(found_cases(tmp_path / "findings", 5), encoder, tmp_path)
    with pytest.raises(UserError, match="its data set has no label maps"):
        run(cohort_cases(tmp_path / "cohorts", 5), encoder, tmp_path)


def test_places_of_patches_survive_the_table(done, scans, tmp_path):
    settings, _, out, _ = done
    used = _finding.encoder(out / "model/encoder", settings)
    scan = read.prepare(scans[4].image, used.preprocess, tmp_path, crop="volume")
    cut = patches.grid(scan.shape, settings.patch, settings.overlap)
    found = Matches(out / "predictions", scans[4].case)
    np.testing.assert_allclose(found.searched.centres_mm, cut.centres_world(scan))
    assert found.patient == scans[4].patient and len(found.points) == 6
    middle = scan.volume.load().world((np.array(scan.shape) - 1) / 2)
    np.testing.assert_allclose(found.searched.middle_mm, middle)
    json.dumps(found.grid)
    assert _heat.path(tmp_path, "a").name == "a.parquet"
