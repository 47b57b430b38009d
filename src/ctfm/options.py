"""What the settings of several sections and plug-ins share. ``ctfm.config`` has these names too. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Millimetres = tuple[float, float, float]
Voxels = tuple[int, int, int]
Range = tuple[float, float]


class Strict(BaseModel):
    """Settings that refuse unknown keys and can't be changed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Objective(Strict):
    """What the settings of every pre-training objective in src/ctfm/ssl have."""

    sampling: Literal["intra", "cross"] = Field(
        "intra", description="intra: the crops of one scan are the batch; cross: all crops of the step, on all devices"
    )


class Augment(Strict):
    """Random views. `p` is the probability of each operation; zero switches it off."""

    resized_crop: Range = Field((0.33, 1.0), description="edge of the random crop over the patch edge")
    flip_p: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="flip along z, y, x")
    affine_p: float = Field(0.0, ge=0, le=1, description="random rotation and scaling")
    rotate_rad: float = Field(0.26, ge=0, description="largest rotation about each axis, radians")
    scale: float = Field(0.2, ge=0, lt=1, description="largest relative change of size per axis")
    histogram_p: float = Field(0.0, ge=0, le=1, description="random monotone change of intensities")
    histogram_points: int = Field(5, ge=3, description="control points of the histogram shift")
    intensity_p: float = Field(0.0, ge=0, le=1, description="random factor on intensities")
    intensity: float = Field(0.3, ge=0, description="largest relative change of intensities")
    shift_p: float = Field(0.0, ge=0, le=1, description="random offset of intensities")
    shift: float = Field(0.1, ge=0, description="largest offset, of intensities in [0, 1]")
    noise_p: float = Field(0.0, ge=0, le=1, description="Gaussian noise, new in each voxel")
    noise: float = Field(0.1, ge=0, description="largest standard deviation of the noise, of intensities in [0, 1]")
    smooth_p: float = Field(0.0, ge=0, le=1, description="Gaussian smoothing")
    smooth_voxels: Range = Field((0.25, 1.5), description="standard deviation of the smoothing, voxels")


PAPER_AUGMENT = Augment(histogram_p=0.5, affine_p=0.2, intensity_p=0.5)
