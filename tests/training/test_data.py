from __future__ import annotations

import numpy as np
import pytest
import torch

from ctfm import files
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from ctfm.training import corpus as corpus_module
from ctfm.training import data, seeds
from tests.training import corpora

PATCH = (8, 16, 16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> corpus_module.Corpus:
    return corpus_module.read(corpora.write(tmp_path_factory.mktemp("volumes")))


def read(dataset, first=0, steps=6, sharing=None, rank=0, workers=0):
    sharing = sharing or data.share(2, 1, None)
    return list(data.batches(dataset, sharing, first, steps, rank=rank, workers=workers, pin=False, strict=False))


def same(one, other) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a["crops"], b["crops"]) and a["names"] == b["names"] and a["items"] == b["items"]
        for a, b in zip(one, other, strict=True)
    )


def test_crops_are_the_boxes_of_the_stored_volume(corpus):
    dataset = data.Crops(corpus, PATCH, 4, "body", seed=3)
    item = dataset[5]
    volume = store.open_volume(corpus.files[dataset.scan(5)])
    starts = data.corners(volume.shape, volume.meta["body_box"], PATCH, 4, seeds.generator(3, "crops", 5))
    array = volume.load().array
    for crop, start in zip(item["crops"], starts, strict=True):
        box = tuple(slice(s, s + n) for s, n in zip(start, PATCH, strict=True))
        assert np.array_equal(crop.numpy(), array[box])
    assert item["crops"].dtype == torch.int16 and item["name"] == corpus.names[dataset.scan(5)]


def test_corners_fill_the_body_box_and_nothing_else():
    got = data.corners((40, 60, 60), [[5, 10, 10], [35, 50, 40]], (8, 16, 16), 5000, np.random.default_rng(0))
    assert (got.min(0) == [5, 10, 10]).all() and (got.max(0) == [27, 34, 24]).all()
    counts = np.bincount(got[:, 0] - 5)
    assert counts.min() > 0.7 * counts.mean() and counts.max() < 1.3 * counts.mean()


def test_a_small_body_lies_wholly_in_the_patch_and_a_small_volume_is_padded_with_air(tmp_path):
    got = data.corners((40, 60, 60), [[10, 20, 20], [14, 30, 30]], (8, 16, 16), 500, np.random.default_rng(0))
    assert (got <= [10, 20, 20]).all() and (got >= np.subtract([14, 30, 30], [8, 16, 16])).all() and (got >= 0).all()
    small = corpus_module.read(corpora.write(tmp_path, count=1, shape=(4, 10, 12), box=((0, 0, 0), (4, 10, 12))))
    crops = data.Crops(small, PATCH, 3, "body", seed=0)[0]["crops"].numpy()
    array = store.open_volume(small.files[0]).load().array
    for crop in crops:
        assert (crop == -1024).sum() >= crop.size - array.size
        assert np.array_equal(np.sort(crop[crop > -1024]), np.sort(array[array > -1024]))


def test_each_pass_takes_every_scan_once_in_its_own_order(corpus):
    dataset = data.Crops(corpus, PATCH, 2, "body", seed=0)
    passes = [tuple(dataset.scan(3 * turn + i) for i in range(3)) for turn in range(30)]
    assert all(sorted(order) == [0, 1, 2] for order in passes) and len(set(passes)) == 6


def test_crops_differ_between_visits_scans_workers_and_seeds(corpus):
    dataset = data.Crops(corpus, PATCH, 2, "body", seed=0)
    starts = set()
    for item in range(40):
        generator = seeds.generator(0, "crops", item)
        starts.add(data.corners((20, 40, 44), [[0, 0, 0], [20, 40, 44]], PATCH, 2, generator).tobytes())
    assert len(starts) == 40
    other = data.Crops(corpus, PATCH, 2, "body", seed=1)
    assert not torch.equal(dataset[0]["crops"], other[0]["crops"])


def test_workers_change_nothing_and_any_step_can_be_the_first(corpus):
    dataset = data.Crops(corpus, PATCH, 2, "body", seed=0)
    straight = read(dataset)
    assert len(straight) == 6 and straight[0]["crops"].shape == (2, 2, *PATCH)
    assert same(straight, read(dataset, workers=2))
    assert same(straight[4:], read(dataset, first=4)) and same(straight[4:], read(dataset, first=4, workers=1))


def test_ranks_and_micro_batches_share_the_same_scans(corpus):
    dataset = data.Crops(corpus, PATCH, 2, "body", seed=0)
    whole = read(dataset, steps=3, sharing=data.share(4, 1, None))
    parts = [read(dataset, steps=3, sharing=data.share(4, 2, 1), rank=rank) for rank in range(2)]
    for step, batch in enumerate(whole):
        pieces = [part for rank in range(2) for part in parts[rank][2 * step : 2 * step + 2]]
        assert batch["items"] == [item for piece in pieces for item in piece["items"]]
        assert torch.equal(batch["crops"], torch.cat([piece["crops"] for piece in pieces]))


def test_shares_are_equal_or_refused():
    assert data.share(16, 1, None) == data.Share(16, 1, 16) and data.share(16, 4, None).accumulate == 1
    assert (data.share(16, 2, 3).micro, data.share(16, 2, 3).accumulate) == (2, 4)
    assert data.share(2, 1, 100).micro == 2
    with pytest.raises(UserError, match="global_batch 16 can't be shared equally by 3"):
        data.share(16, 3, None)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_scan_that_cannot_be_read_is_told_and_leaves_its_place_empty(tmp_path, workers):
    scans = corpus_module.read(corpora.write(tmp_path, count=3))
    dataset = data.Crops(scans, PATCH, 2, "body", seed=0)
    before = read(dataset)
    scans.files[1].write_bytes(scans.files[1].read_bytes()[:500])
    for damage in (lambda: None, scans.files[1].unlink):
        damage()
        after = read(data.Crops(scans, PATCH, 2, "body", seed=0), workers=workers)
        assert any(batch["skipped"] for batch in after) and str(tmp_path) not in str([b["skipped"] for b in after])
        for old, new in zip(before, after, strict=True):
            good = [i for i, name in enumerate(old["names"]) if name != "1.1"]
            assert new["names"] == [old["names"][i] for i in good]
            assert new["items"] == [old["items"][i] for i in good]
            assert torch.equal(new["crops"], old["crops"][good])
            assert all("1.1.b2nd can't be read" in why for why in new["skipped"].values())
            assert list(new["skipped"]) == ["1.1"] * (len(old["names"]) - len(good))
    strict = data.batches(dataset, data.share(2, 1, None), 0, 6, rank=0, workers=workers, pin=False)
    with pytest.raises(UserError, match=r"1\.1\.b2nd can't be read"):
        list(strict)


def test_a_batch_of_which_nothing_can_be_read_holds_air_and_no_names(tmp_path):
    scans = corpus_module.read(corpora.write(tmp_path, count=1))
    scans.files[0].unlink()
    (batch,) = read(data.Crops(scans, PATCH, 2, "body", seed=0), steps=1)
    assert batch["names"] == [] and list(batch["skipped"]) == ["1.0"] and len(batch["items"]) == 1
    assert batch["crops"].shape == (1, 2, *PATCH) and (batch["crops"] == -1024).all()


def test_damaged_blocks_are_found_though_they_decode(tmp_path):
    scans = corpus_module.read(corpora.write(tmp_path, count=1))
    content = bytearray(scans.files[0].read_bytes())
    content[2000:9000] = bytes(7000)
    scans.files[0].write_bytes(content)
    store.open_volume(scans.files[0]).load()
    (batch,) = read(data.Crops(scans, (20, 40, 44), 2, "body", seed=0), steps=1)
    assert "its bytes are not those" in batch["skipped"]["1.0"]


def test_values_that_are_no_numbers_are_found(tmp_path):
    array = np.zeros((20, 40, 44), np.float32)
    array[10, 20, 22] = np.nan
    scans = corpus_module.read(corpora.write(tmp_path, count=1))
    store.save(Volume(array, np.diag([3, 1, 1, 1.0])), scans.files[0])
    scans.checksums[0] = files.sha256(scans.files[0])
    (batch,) = read(data.Crops(scans, (20, 40, 44), 2, "volume", seed=0), steps=1)
    assert "no numbers" in batch["skipped"]["1.0"]


def blob(tmp_path, inside=200):
    """Make a volume of air with a small body in one corner."""
    array = np.full((40, 80, 80), -1024, np.int16)
    array[:12, :24, :24] = inside
    scans = corpus_module.read(corpora.write(tmp_path, count=1))
    store.save(Volume(array, np.diag([3, 1, 1, 1.0])), scans.files[0], {"body_box": [[0, 0, 0], [12, 24, 24]]})
    scans.checksums[0] = files.sha256(scans.files[0])
    return scans


def test_crops_come_from_the_body_the_foreground_or_anywhere(tmp_path):
    scans, share = blob(tmp_path), {}
    for place in ("body", "foreground", "volume"):
        crops = torch.cat([data.Crops(scans, PATCH, 20, place, seed=0)[item]["crops"] for item in range(10)])
        share[place] = (crops > -500).float().mean((1, 2, 3))
    assert (share["body"] == 1).all()
    assert (share["volume"] == 0).float().mean() > 0.5
    assert (share["foreground"] >= 0.1).all() and ((share["foreground"] > 0.1) & (share["foreground"] < 1)).any()


def test_without_any_foreground_the_last_try_is_taken(tmp_path):
    item = data.Crops(blob(tmp_path, inside=-1024), PATCH, 3, "foreground", seed=0)[0]
    assert item["error"] == "" and item["crops"].shape == (3, *PATCH)


def test_a_view_depends_on_seed_and_visit_and_not_on_who_reads_it(corpus):
    """Two processes with any number of workers give together what one gives: no two visits share their crops."""
    dataset, steps = data.Crops(corpus, PATCH, 2, "body", seed=0), 6
    whole = {}
    for batch in read(dataset, steps=steps, sharing=data.share(4, 1, None)):
        whole.update(zip(batch["items"], batch["crops"], strict=True))
    for workers in (0, 1, 3):
        parts = {}
        for rank in range(2):
            for batch in read(dataset, steps=steps, sharing=data.share(4, 2, 1), rank=rank, workers=workers):
                parts.update(zip(batch["items"], batch["crops"], strict=True))
        assert sorted(parts) == sorted(whole) == list(range(4 * steps))
        assert all(torch.equal(parts[item], whole[item]) for item in whole)
    assert len({crops.numpy().tobytes() for crops in whole.values()}) == len(whole)
