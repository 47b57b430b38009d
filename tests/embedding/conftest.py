"""A tiny encoder that works on coarse voxels, and real scans."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctfm import plugins, weights
from ctfm.embedding.encode import Encoder
from ctfm.imaging.preprocess import Preprocess
from ctfm.training import seeds

PREPROCESS = Preprocess(spacing_mm=(6.0, 4.0, 4.0), patch=(16, 48, 48))
OPTIONS = {"segresnet": {"init_filters": 4, "blocks_down": (1, 1, 1, 1, 1)}, "suprem_unet": {"init_filters": 2}}


def write_encoder(folder: Path, kind: str = "segresnet", seed: int = 0, **preprocess) -> Path:
    """Write an encoder with random weights."""
    plugin = plugins.get("encoders", kind)
    with seeds.seeded(seed):
        state = plugin.build(plugin.Settings(**OPTIONS[kind])).state_dict()
    made = PREPROCESS.model_copy(update={"orientation": plugin.PREPROCESS.orientation, **preprocess})
    weights.save_encoder(
        folder, name=folder.name, kind=kind, options=OPTIONS[kind], state=state, facts={}, preprocess=made
    )
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Return the folder of the tiny encoder."""
    return write_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture(scope="session")
def encoder(folder) -> Encoder:
    """Return the tiny encoder."""
    return Encoder(folder)


@pytest.fixture(scope="session")
def trunk(shared_data) -> Path:
    """Return a real scan, 122 x 101 x 112 voxels of 3 mm."""
    return shared_data / "nifti/trunk_3mm.nii.gz"
