from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ctfm.imaging import pictures, store
from ctfm.imaging.volume import Volume


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def marked(shape: tuple[int, int, int] = (10, 20, 30)) -> np.ndarray:
    """Return air with one bright voxel: high (feet to head), in front, on the patient's left."""
    array = np.full(shape, -1000, np.int16)
    array[8, 2, 27] = 1000
    return array


def test_window_is_linear_and_clipped() -> None:
    grey = pictures.window(np.array([-2000, -400, 100, 600, 3000]), (-400, 600))
    assert grey.dtype == np.uint8 and grey.tolist() == [0, 0, 128, 255, 255]


def test_planes_are_shown_by_custom() -> None:
    axial, coronal, sagittal = pictures.planes(marked(), (8, 2, 27))
    assert np.argwhere(axial > 0).tolist() == [[2, 27]]  # front up, left on the right
    assert np.argwhere(coronal > 0).tolist() == [[1, 27]]  # head up
    assert np.argwhere(sagittal > 0).tolist() == [[1, 2]]  # head up, front left


def test_mosaic_of_array_and_file_agree_and_keep_proportions(tmp_path: Path) -> None:
    volume = Volume(marked(), np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]]))
    store.save(volume, tmp_path / "a.b2nd")
    image = pictures.mosaic(volume, (8, 2, 27), height=90)
    assert (image == pictures.mosaic(store.open_volume(tmp_path / "a.b2nd"), (8, 2, 27), height=90)).all()
    # 30 mm is the tallest plane: 3 pixels per mm; planes 30, 30 and 20 mm wide
    assert image.shape == (90, 90 + 90 + 60 + 2 * pictures.GAP)


def test_thumbnail_is_small_and_of_any_range() -> None:
    wide = np.linspace(0, 60000, 512 * 256).reshape(256, 512)
    small = pictures.thumbnail(wide)
    assert small.shape == (64, 128) and small.min() == 0 and small.max() == 255
    assert pictures.thumbnail(np.zeros((5, 9))).shape == (5, 9)
    assert pictures.thumbnail(np.full((300, 3), np.nan)).shape == (128, 1)


def test_png_survives(tmp_path: Path) -> None:
    for shape in ((7, 5), (7, 5, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        assert (decoded(pictures.png(image)) == image).all()
        pictures.write_png(image, tmp_path / "a.png")
        assert (decoded((tmp_path / "a.png").read_bytes()) == image).all()
        head, _, tail = pictures.data_uri(pictures.png(image)).partition(",")
        assert head == "data:image/png;base64" and (decoded(base64.b64decode(tail)) == image).all()


def test_figure_is_embedded() -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    tail = pictures.figure_uri(figure, dpi=50).partition(",")[2]
    assert decoded(base64.b64decode(tail)).ndim == 3
