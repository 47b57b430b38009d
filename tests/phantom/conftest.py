"""One person, scanned from neck to hip, shared by the tests of the phantom."""

from __future__ import annotations

import numpy as np
import pytest

from ctfm.phantom import anatomy


@pytest.fixture(scope="session")
def scanned():
    """Return (body, HU, labels) of a trunk at 3.5 x 3 x 3 mm."""
    body = anatomy.draw(np.random.default_rng(7))
    return body, *anatomy.case(np.random.default_rng(8), (125, 82, 108), (3.5, 3.0, 3.0), "trunk", body)


@pytest.fixture(scope="session")
def ids():
    return anatomy.labels()


@pytest.fixture(scope="session")
def centre(scanned, ids):
    """Return a function: name of a structure -> its centre in the patient, LPS mm."""
    _, _, label = scanned

    def of(name):
        voxels = np.argwhere(label.array == ids[name])
        assert len(voxels), name
        return label.world(voxels).mean(axis=0)

    return of
