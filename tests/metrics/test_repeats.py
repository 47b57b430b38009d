from __future__ import annotations

import numpy as np
import pytest
from matplotlib import cbook

from ctfm.metrics import repeats

LIMITS = repeats.Limits(ncc=0.85, rotation_degrees=20, translation_mm=200, overlap=0.8)
GOOD = {"ncc": 0.97, "rotation_degrees": 2.0, "translation_mm": 12.0, "overlap": 0.95, "overlap_back": 0.97}
SOURCE = {"spacing_mm": [1.25, 0.7, 0.7], "thickness_mm": [1.25], "ConvolutionKernel": "B30f"}


def facts(registration=None, first=None, second=None, noise=(12.0, 13.0)):
    """Return the facts of a pair of which nothing is wrong but what is named."""
    sources = [{**SOURCE, **(first or {})}, {**SOURCE, **(second or {})}]
    return {"registration": {**GOOD, **(registration or {})}, "sources": sources, "noise_hu": list(noise)}


def test_fences_are_those_of_a_box_plot():
    values = np.random.default_rng(0).normal(0.95, 0.01, 31)
    values[[3, 7]] = 0.8, 0.99
    (box,) = cbook.boxplot_stats(values, whis=1.5)
    below, above = repeats.outliers(values, low=True), repeats.outliers(values, low=False)
    assert set(values[below] if below.any() else []) == {v for v in box["fliers"] if v < box["q1"]}
    assert set(values[above]) == {v for v in box["fliers"] if v > box["q3"]}


def test_a_pair_without_a_value_is_an_outlier_and_few_pairs_have_no_fences():
    assert repeats.outliers([0.9, np.nan, 0.91, 0.9, 0.92], low=True).tolist() == [False, True, False, False, False]
    assert repeats.outliers([0.9, 0.1, np.nan], low=True).tolist() == [False, False, True]
    assert not repeats.outliers([1.0, 1.0, 1.0, 1.0], low=True).any()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, repeats.UNEXPLAINED),
        ({"registration": {"ncc": 0.6}}, "registration failed (correlation of HU 0.60)"),
        ({"registration": {"rotation_degrees": 31.0}}, "registration failed (implausible rotation of 31 degrees)"),
        ({"registration": {"translation_mm": 240.0}}, "registration failed (implausible translation of 240 mm)"),
        ({"registration": {"failed": "no_overlap: none"}}, "registration failed (no_overlap: none)"),
        ({"registration": {"overlap": 0.5}}, "fields of view differ (the scans share 50 % of a body)"),
        ({"registration": {"overlap_back": 0.6}}, "fields of view differ (the scans share 60 % of a body)"),
        ({"second": {"spacing_mm": [5.0, 0.7, 0.7]}}, "spacing differs (1.25x0.7x0.7 and 5x0.7x0.7 mm)"),
        ({"first": {"thickness_mm": [2.5]}}, "slice thickness differs (2.5 and 1.25 mm)"),
        ({"second": {"ConvolutionKernel": "B70f"}}, "reconstruction kernels differ (B30f, B70f)"),
        ({"noise": (10.0, 30.0)}, "noise differs (10 and 30 HU)"),
    ],
)
def test_each_cause_alone(changed, words):
    assert repeats.causes(facts(**changed), LIMITS) == [words]


def test_causes_come_in_the_order_in_which_they_explain_each_other():
    everything = facts(
        {"ncc": 0.5, "overlap": 0.4},
        second={"spacing_mm": [5.0, 0.7, 0.7], "thickness_mm": [5.0], "ConvolutionKernel": "B70f"},
        noise=(10.0, 40.0),
    )
    found = repeats.causes(everything, LIMITS)
    starts = ["registration", "fields of view", "spacing", "slice thickness", "reconstruction kernels", "noise"]
    assert [cause.startswith(start) for cause, start in zip(found, starts, strict=True)] == [True] * 6


def test_what_is_not_known_is_no_cause():
    blank = {"spacing_mm": None, "thickness_mm": None, "ConvolutionKernel": None}
    unknown = facts(first=blank, second=blank, noise=(np.nan, 10.0))
    assert repeats.causes(unknown, LIMITS) == [repeats.UNEXPLAINED]
    assert repeats.causes({**unknown, "sources": [{}, {}]}, LIMITS) == [repeats.UNEXPLAINED]
