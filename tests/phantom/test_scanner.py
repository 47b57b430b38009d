"""Noise, blur, table and rim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ctfm.phantom import scanner

AFFINE = np.array([[0, 0, 3.0, -150], [0, 3.0, 0, -150], [3.0, 0, 0, 0], [0, 0, 0, 1]])
SCAN = scanner.Scan(noise_hu=15, blur_mm=1, grain_mm=6, prone=False, table_gap_mm=0, circle=False)


def test_noise_has_the_strength_asked_for():
    air = np.full((10, 60, 60), -1000, np.float32)
    out = scanner.acquire(air + 500, AFFINE, replace(SCAN, grain_mm=50), np.random.default_rng(0)).astype(float)
    across = np.diff(out, axis=0)  # texture is the same in neighbouring slices, noise is not
    assert across.std() / np.sqrt(2) == pytest.approx(15, rel=0.15)
    assert out.dtype == float and out.min() >= -1024


def test_output_is_int16_and_clipped():
    hot = np.full((4, 20, 20), 9000, np.float32)
    out = scanner.acquire(hot, AFFINE, SCAN, np.random.default_rng(0))
    assert out.dtype == np.int16 and out.max() <= 3071


@pytest.mark.parametrize("prone", [False, True])
def test_the_table_is_behind_or_in_front_when_prone(prone):
    hu = np.full((4, 100, 100), -1000, np.float32)
    scanner.table(hu, AFFINE, replace(SCAN, prone=prone), 100)
    rows = np.flatnonzero((hu > -500).any(axis=(0, 2)))
    middle = 50
    assert (rows < middle).all() if prone else (rows > middle).all()
    assert (np.abs(rows * 3 - 150) > 75).all()


def test_the_table_never_cuts_the_body():
    hu = np.full((4, 100, 100), 40, np.float32)
    scanner.table(hu, AFFINE, SCAN, 0)
    assert (hu == 40).all()


def test_the_rim_is_padding():
    hu = np.full((4, 100, 100), 40, np.float32)
    out = scanner.acquire(hu, AFFINE, replace(SCAN, circle=True), np.random.default_rng(0))
    assert (out[:, 0, 0] == -1024).all() and (out[:, 50, 50] > -200).all()


def test_draw_follows_the_generator():
    assert scanner.draw(np.random.default_rng(3)) == scanner.draw(np.random.default_rng(3))
    assert scanner.draw(np.random.default_rng(3), prone=True).prone
