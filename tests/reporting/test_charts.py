"""Pictures of the page."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
from PIL import Image

from ctfm import tables
from ctfm.imaging import pictures, store
from ctfm.imaging.volume import Volume
from ctfm.reporting import charts
from tests import synthetic


def decoded(address: str) -> np.ndarray:
    head, content = address.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_curves_need_something_measured():
    assert charts.training({}) == ""
    table = pd.DataFrame({"epoch": [0, 1], "loss": [2.0, np.nan], "lr": [0.1, 0.2]})
    assert decoded(charts.training({"ctfm": table, "other": table.drop(columns="lr")})).std() > 0


def test_probe_is_drawn_with_any_choice(tmp_path):
    synthetic.training(tmp_path)
    scores = tables.read("scores", tmp_path / "probe/ctfm/scores.parquet")
    with_choice, without = (decoded(charts.probe(scores, chosen)) for chosen in ({"epoch": 1}, {}))
    assert with_choice.shape != without.shape or (with_choice != without).any()


def test_refused_series_without_picture_are_left_out(tmp_path):
    synthetic.corpus(tmp_path)
    folder = tmp_path / "volumes/phantom"
    table = tables.read("volumes", folder / "index.parquet")
    assert [item["uid"] for item in charts.refused(table, folder)] == ["1.2.4"]
    (folder / "shard=00000/thumbnails/1.2.4.png").unlink()
    assert charts.refused(table, folder) == []


def test_samples_are_planes_of_volumes_that_are_still_there(tmp_path):
    synthetic.corpus(tmp_path)
    folder = tmp_path / "volumes/phantom"
    table = tables.read("volumes", folder / "index.parquet")
    assert charts.samples(table, folder) == []
    volume = Volume(np.zeros((16, 32, 32), np.int16), np.diag([3.0, 1.0, 1.0, 1.0]))
    store.save(volume, folder / "gone.b2nd", {})
    (sample,) = charts.samples(table, folder)
    assert decoded(sample["image"]).ndim == 2


def test_segmentations_of_most_shots_come_first(tmp_path):
    for name in ("5-0", "all-0", "20-0", "0.05-0", "0.1-0"):
        pictures.write_png(np.zeros((4, 4), np.uint8), tmp_path / "evaluate/wholebody/ctfm" / f"{name}.png")
    texts = [item["text"].split(" / ")[-1] for item in charts.predictions(tmp_path)]
    assert texts == ["all-0", "0.1-0", "0.05-0", "20-0", "5-0"]
