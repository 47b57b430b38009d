"""Scans and an encoder for those who have none at hand: phantoms, and a small network with random weights."""

from __future__ import annotations

from pathlib import Path

from ctfm import logs, plugins, weights
from ctfm.app.sources import Source
from ctfm.imaging import store
from ctfm.imaging.preprocess import Preprocess
from ctfm.phantom import anatomy
from ctfm.phantom.cases import cases
from ctfm.training import seeds

COUNT, SPACING_MM, SEED = 3, 3.0, 0
KIND = "segresnet"
OPTIONS = {"init_filters": 8, "blocks_down": (1, 1, 1, 1, 1)}
PREPROCESS = Preprocess(spacing_mm=(4.0, 4.0, 4.0), patch=(16, 16, 16))


def scans(folder: Path, count: int = COUNT, spacing_mm: float = SPACING_MM) -> list[Source]:
    """Write phantoms with their label maps, the same ones every time."""
    ids = {number: name for name, number in anatomy.labels().items()}
    found = []
    for case in logs.progress(cases(SEED, count, spacing_mm), "phantoms", count):
        image, label = folder / f"phantom_{case.number}.b2nd", folder / f"phantom_{case.number}_label.b2nd"
        store.save(case.image, image)
        store.save(case.label, label)
        found.append(Source(f"{case.region} phantom {case.number + 1}", image, label, ids))
    return found


def encoder(folder: Path) -> Path:
    """Write a small encoder with random weights; return its folder."""
    plugin = plugins.get("encoders", KIND)
    with seeds.seeded(SEED):
        state = plugin.build(plugin.Settings(**OPTIONS)).state_dict()
    facts = {"seed": SEED, "random": True, "trained_on": "Its weights are random: it was trained on nothing."}
    weights.save_encoder(
        folder, name="random", kind=KIND, options=OPTIONS, state=state, facts=facts, preprocess=PREPROCESS
    )
    return folder
