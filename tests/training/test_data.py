from __future__ import annotations

import numpy as np
import pytest
import torch

from ctfm import tables
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.training import data, seeds
from tests.training import corpora

PATCH = (8, 16, 16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> data.Corpus:
    return data.corpus(corpora.write(tmp_path_factory.mktemp("volumes")))


def read(dataset, first=0, steps=6, sharing=None, rank=0, workers=0):
    sharing = sharing or data.share(2, 1, None)
    return list(data.batches(dataset, sharing, first, steps, rank=rank, workers=workers, pin=False))


def same(one, other) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a["crops"], b["crops"]) and a["names"] == b["names"] and a["items"] == b["items"]
        for a, b in zip(one, other, strict=True)
    )


def test_the_corpus_holds_what_is_usable(corpus, tmp_path):
    assert corpus.names == ["1.0", "1.1", "1.2"] and corpus.spacing_mm == (3.0, 1.0, 1.0)
    assert all(file.is_file() for file in corpus.files)
    other = data.corpus(corpora.write(tmp_path, count=2))
    assert other.digest != corpus.digest
    table = tables.read("volumes", tmp_path / "index.parquet")
    tables.write(table.iloc[::-1], "volumes", tmp_path / "index.parquet")
    assert data.corpus(tmp_path / "index.parquet").digest == other.digest


def test_a_corpus_without_volumes_or_of_two_spacings_is_refused(tmp_path):
    index = corpora.write(tmp_path, count=2)
    table = tables.read("volumes", index)
    table.loc[0, "status"] = "quarantined"
    changed = table.copy()
    changed.loc[1, "status"] = "quarantined"
    tables.write(changed, "volumes", index)
    with pytest.raises(UserError, match="no volume with status 'ok'"):
        data.corpus(index)
    table["status"] = ["ok", "ok", "quarantined"]
    table.at[1, "spacing_out"] = [1.0, 1.0, 1.0]
    tables.write(table, "volumes", index)
    with pytest.raises(UserError, match="2 different spacings"):
        data.corpus(index)


def test_crops_are_the_boxes_of_the_stored_volume(corpus):
    dataset = data.Crops(corpus, PATCH, 4, seed=3)
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
    small = data.corpus(corpora.write(tmp_path, count=1, shape=(4, 10, 12), box=((0, 0, 0), (4, 10, 12))))
    crops = data.Crops(small, PATCH, 3, seed=0)[0]["crops"].numpy()
    array = store.open_volume(small.files[0]).load().array
    for crop in crops:
        assert (crop == -1024).sum() >= crop.size - array.size
        assert np.array_equal(np.sort(crop[crop > -1024]), np.sort(array[array > -1024]))


def test_each_pass_takes_every_scan_once_in_its_own_order(corpus):
    dataset = data.Crops(corpus, PATCH, 2, seed=0)
    passes = [tuple(dataset.scan(3 * turn + i) for i in range(3)) for turn in range(30)]
    assert all(sorted(order) == [0, 1, 2] for order in passes) and len(set(passes)) == 6


def test_crops_differ_between_visits_scans_workers_and_seeds(corpus):
    dataset = data.Crops(corpus, PATCH, 2, seed=0)
    starts = set()
    for item in range(40):
        generator = seeds.generator(0, "crops", item)
        starts.add(data.corners((20, 40, 44), [[0, 0, 0], [20, 40, 44]], PATCH, 2, generator).tobytes())
    assert len(starts) == 40
    other = data.Crops(corpus, PATCH, 2, seed=1)
    assert not torch.equal(dataset[0]["crops"], other[0]["crops"])


def test_workers_change_nothing_and_any_step_can_be_the_first(corpus):
    dataset = data.Crops(corpus, PATCH, 2, seed=0)
    straight = read(dataset)
    assert len(straight) == 6 and straight[0]["crops"].shape == (2, 2, *PATCH)
    assert same(straight, read(dataset, workers=2))
    assert same(straight[4:], read(dataset, first=4)) and same(straight[4:], read(dataset, first=4, workers=1))


def test_ranks_and_micro_batches_share_the_same_scans(corpus):
    dataset = data.Crops(corpus, PATCH, 2, seed=0)
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
def test_a_volume_that_cannot_be_read_is_named(tmp_path, workers):
    corpus = data.corpus(corpora.write(tmp_path, count=2))
    corpus.files[1].write_bytes(corpus.files[1].read_bytes()[:500])
    with pytest.raises(UserError, match=r"1\.1: its volume 1\.1\.b2nd can't be read"):
        read(data.Crops(corpus, PATCH, 2, seed=0), workers=workers)
    corpus.files[1].unlink()
    with pytest.raises(UserError, match=r"1\.1: its volume 1\.1\.b2nd can't be read"):
        read(data.Crops(corpus, PATCH, 2, seed=0), workers=workers)


def test_damaged_blocks_are_found_though_they_decode(tmp_path):
    corpus = data.corpus(corpora.write(tmp_path, count=1))
    content = bytearray(corpus.files[0].read_bytes())
    content[2000:9000] = bytes(7000)
    corpus.files[0].write_bytes(content)
    store.open_volume(corpus.files[0]).load()
    with pytest.raises(UserError, match=r"^1\.0: its volume .*its bytes are not those"):
        read(data.Crops(corpus, (20, 40, 44), 2, seed=0))
