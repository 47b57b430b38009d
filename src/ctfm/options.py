"""What the settings of several sections and plug-ins share. ``ctfm.config`` has these names too. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Millimetres = tuple[float, float, float]
Voxels = tuple[int, int, int]
Range = tuple[float, float]
Crop = Literal["body", "published", "volume"]


class Strict(BaseModel):
    """Settings that refuse unknown keys and can't be changed once made.

    A section that is given in part keeps the rest of its default, as a file laid over another one does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        whole = dict(given)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Strict) and isinstance(given.get(name), Mapping):
                whole[name] = {**field.default.model_dump(), **given[name]}
        return whole


class Objective(Strict):
    """What the settings of every pre-training objective in src/ctfm/ssl have."""

    sampling: Literal["intra", "cross"] = Field(
        "intra", description="intra: the crops of one scan are the batch; cross: all crops of the step, on all devices"
    )


class Criteria(Strict):
    """What a series must be, by its headers. Defaults: the paper's criteria (supplement S1)."""

    modality: str | None = Field("CT", description="DICOM modality to keep; null: any (the headers decide later)")
    min_instances: int = Field(51, ge=1, description="fewest DICOM instances (slices) in a series")
    thickness_mm: Range | None = Field(
        (1.0, 5.0), description="slice thickness kept, mm; null: any, known or not. The headers decide in the end"
    )
    exclude_localizers: bool = Field(True, description="drop scouts, as far as the index can tell")
    unique_positions: bool = Field(True, description="drop series with two instances at one position")


class Patches(Strict):
    """How a frozen encoder is shown a scan. Defaults: the paper's patches."""

    patch: Voxels | None = Field(None, description="patch (z, y, x), voxels; null: the encoder's own")
    overlap: float = Field(0.625, ge=0, lt=1, description="overlap of the patches; 0 is many times as fast")
    crop: Crop = Field(
        "body", description="body: the box of what is above -500 HU; published: above 0 HU; volume: all of the scan"
    )


class Embed(Patches):
    """Frozen features of the scans of one data set, whose entry has the same name. Defaults: the paper's patches."""

    encoders: tuple[str, ...] = Field((), description="entries of `pretrain` and `encoders`; empty: all")
    patches: bool = Field(False, description="write a row for each patch too, not only one for each scan")
    pool: Literal["avg", "max", "min"] = Field("avg", description="how the feature map of a patch becomes a vector")
    over_patches: Literal["mean", "max", "min"] = Field("mean", description="how the patches of a scan become one")
    organs: bool = Field(False, description="write the mean over each organ's voxels too, from the label maps")


class Occlusion(Strict):
    """How blocks of a scan are occluded. Defaults: the paper's; what it leaves open is as in the published run."""

    block: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (8, 8, 8), description="voxels (z, y, x) occluded at once; published run: 10, 10, 10"
    )
    overlap: float = Field(0.25, ge=0, lt=1, description="overlap of the blocks; 0 is more than twice as fast")
    mode: Literal["hard", "gaussian"] = Field(
        "hard",
        description="hard: the block is filled; gaussian: it fades out, and embeddings are blended, as published",
    )
    fill: float = Field(0.0, description="what a hard block is filled with; 0: the lower end of the HU window")
    spacing_mm: Millimetres = Field((3.0, 3.0, 3.0), description="spacing (z, y, x) of the scan as it is embedded, mm")
    crop: Crop = Field(
        "body", description="body: the box of what is above -500 HU; published: above 0 HU; volume: all of the scan"
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


SEGMENTATION_AUGMENT = Augment(
    resized_crop=(1.0, 1.0),
    affine_p=0.2,
    smooth_p=0.2,
    smooth_voxels=(0.5, 1.0),
    intensity_p=0.5,
    shift_p=0.5,
    noise_p=0.2,
)


class Finetuning(Strict):
    """Recipe of a fine-tuning for segmentation. Defaults: the paper's Methods."""

    patch: Voxels | None = Field(
        None, description="crop and inference window (z, y, x), voxels; null: the encoder's own (its `adapt_patch`)"
    )
    steps_per_epoch: int | None = Field(None, ge=1, description="null: as many as the cases fill")
    batch: int = Field(8, ge=1, description="crops in one optimiser step, over all devices")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(1e-5, ge=0, description="weight decay")
    warmup_epochs: float = Field(3, ge=0, description="epochs of linear warm-up, counted in steps")
    warmup_start: float = Field(0.1, ge=0, le=1, description="learning rate before warm-up, share of the peak")
    final_rate: float = Field(0.01, ge=0, le=1, description="learning rate at the end, share of the peak")
    freeze: bool = Field(False, description="only the decoder learns, on the encoder's fixed features")
    overlap: float = Field(0.625, ge=0, lt=1, description="overlap of the inference windows")
    augment: Augment = Field(SEGMENTATION_AUGMENT, description="random views of the crops")
    tolerance_mm: float = Field(
        3.0,
        ge=0,
        description="tolerance of the NSD, mm; 3 is that of TotalSegmentator's own evaluation",
        json_schema_extra={"of": "evaluate"},
    )
    validate_every: int = Field(5, ge=1, description="epochs between validations on whole scans")
    validation_cases: int | None = Field(None, ge=1, description="at most so many validation cases; null: all")


PAPER_AUGMENT = Augment(histogram_p=0.5, affine_p=0.2, intensity_p=0.5)
