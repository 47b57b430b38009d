from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRange
from pydantic import ValidationError

from ctfm.imaging.preprocess import Preprocess

HU = np.array([[-3000, -1024, 0], [512, 2048, 4000]], dtype=np.int16)


def test_scaling_is_monais():
    theirs = ScaleIntensityRange(-1024, 2048, 0, 1, clip=True)(HU.astype(np.float32))
    ours = Preprocess().scale(HU)
    assert ours.dtype == np.float32 and np.allclose(ours, np.asarray(theirs), atol=1e-7)


def test_arrays_and_tensors_scale_alike_and_inputs_stay():
    tensor = torch.from_numpy(HU.copy())
    scaled = Preprocess(hu_window=(-100, 300)).scale(tensor)
    assert scaled.dtype == torch.float32
    assert np.allclose(scaled.numpy(), Preprocess(hu_window=(-100, 300)).scale(HU), atol=1e-7)
    floats = torch.tensor([-2000.0, 5000.0])
    Preprocess().scale(floats)
    assert torch.equal(tensor, torch.from_numpy(HU)) and floats.tolist() == [-2000.0, 5000.0]


def test_it_survives_json_and_refuses_nonsense():
    made = Preprocess(spacing_mm=(1.5, 1.5, 1.5), patch=(96, 160, 160))
    assert Preprocess.model_validate_json(made.model_dump_json()) == made
    for wrong in ({"hu_window": (100, 100)}, {"orientation": "LPS"}, {"spacing": (1, 1, 1)}):
        with pytest.raises(ValidationError):
            Preprocess(**wrong)


def test_it_needs_no_torch():
    code = "import sys, ctfm.imaging.preprocess; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
