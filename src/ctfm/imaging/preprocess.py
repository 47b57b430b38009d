"""The preprocessing that an encoder was trained with. It travels with the weights. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ctfm.config import Millimetres, Range, Strict, Voxels


class Preprocess(Strict):
    """How a scan becomes the input of an encoder. Defaults: the paper's Methods.

    Whatever ``orientation`` says, arrays here are (z, y, x) towards S, P, L, and so are spacing and patch: a network
    whose weights saw other axes turns its input and its maps by itself, so that nothing else has to remember it.
    """

    orientation: Literal["SPL", "RAS"] = Field(
        "SPL", description="where the axes ran that the weights saw; the network turns our (z, y, x) by itself"
    )
    spacing_mm: Millimetres = Field((3.0, 1.0, 1.0), description="voxel spacing (z, y, x), mm")
    hu_window: Range = Field((-1024.0, 2048.0), description="HU mapped to 0 and to 1; clipped outside")
    patch: Voxels = Field((24, 128, 128), description="input size (z, y, x), voxels")
    adapt_patch: Voxels = Field(
        (96, 160, 160), description="window (z, y, x) of a segmentation net that starts from the weights, voxels"
    )

    @field_validator("hu_window")
    @classmethod
    def _rising(cls, window: Range) -> Range:
        if not window[0] < window[1]:
            raise ValueError("the lower end must be below the upper end")
        return window

    def scale(self, array: Any) -> Any:
        """Map HU to [0, 1] by ``hu_window``, clipped.

        Args:
            array: NumPy array or torch tensor of any shape and number type.

        Returns:
            The same kind, float32, on the same device.
        """
        low, high = self.hu_window
        if isinstance(array, np.ndarray):
            return np.clip((array.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
        return array.float().sub(low).div(high - low).clamp_(0, 1)
