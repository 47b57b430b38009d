"""Random views, batched: what is random is drawn first, then applied to all samples at once on their device.

Parameters are a few numbers for each sample. Drawn on the CPU with a generator for each scan, they are the same
whatever the device and however a batch is cut. Geometry is one affine map and one interpolation of each sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ctfm.config import Augment, Millimetres

Draw = dict[str, Tensor]
CUBE: Millimetres = (1.0, 1.0, 1.0)


def views(crops: Tensor, settings: Augment, generator: torch.Generator, spacing_mm: Millimetres = CUBE) -> Tensor:
    """Return one random view of each crop.

    Args:
        crops: (N, 1, Z, Y, X) in [0, 1].
        settings: operations and their probabilities.
        generator: source of the random numbers, on any device.
        spacing_mm: voxel spacing (z, y, x), so that rotations are rigid in the patient.
    """
    return apply(crops, draw(len(crops), settings, generator), settings, spacing_mm)


def paired(
    images: Tensor, labels: Tensor, settings: Augment, generator: torch.Generator, spacing_mm: Millimetres = CUBE
) -> tuple[Tensor, Tensor]:
    """Return random views of images, and their labels moved by the same geometry (nearest voxel).

    Args:
        images: (N, 1, Z, Y, X) in [0, 1].
        labels: (N, 1, Z, Y, X) integer ids below 2^24.
        settings: operations; set ``resized_crop`` to (1, 1) to keep sizes.
        generator: source of the random numbers.
        spacing_mm: voxel spacing (z, y, x).
    """
    drawn = {key: value.to(images.device) for key, value in draw(len(images), settings, generator).items()}
    moved = labels
    if _moves(settings):
        moved = warp(labels.float(), theta(drawn, labels.shape[2:], spacing_mm), "nearest").round().to(labels.dtype)
    return apply(images, drawn, settings, spacing_mm), moved


def draw(count: int, settings: Augment, generator: torch.Generator) -> Draw:
    """Draw the parameters of ``count`` samples; an operation that a sample is spared has its neutral value.

    Returns:
        Tensors on the generator's device: ``size`` (N,) edge of the crop over the patch edge; ``place`` (N, 3) in
        [-1, 1], where it lies; ``flip`` (N, 3) of 1 and -1; ``angles`` (N, 3) about z, y, x in radians; ``zoom``
        (N, 3); ``points`` (N, P) new values of equally spaced intensities; ``sigma`` (N, 3) voxels; ``factor``,
        ``offset`` and ``noise`` (N,) of intensities; ``seed`` (N,) of the noise.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=generator.device) * (high - low) + low

    def sometimes(p: float, value: Tensor, neutral: Tensor | float) -> Tensor:
        chosen = uniform(0, 1) < p
        shape = (count,) + (1,) * (value.ndim - 1)
        return torch.where(chosen.reshape(shape), value, torch.as_tensor(neutral, device=value.device))

    s, ramp = settings, _ramp(settings, generator.device)
    flips = uniform(0, 1, 3) < torch.tensor(s.flip_p, device=generator.device)
    turned = torch.cat([uniform(-s.rotate_rad, s.rotate_rad, 3), uniform(1 - s.scale, 1 + s.scale, 3)], 1)
    turned = sometimes(s.affine_p, turned, torch.tensor([0.0, 0, 0, 1, 1, 1]))
    return {
        "size": uniform(*s.resized_crop),
        "place": uniform(-1, 1, 3),
        "flip": 1 - 2 * flips.float(),
        "angles": turned[:, :3],
        "zoom": turned[:, 3:],
        "points": sometimes(s.histogram_p, control_points(uniform(0, 1, s.histogram_points)), ramp),
        "sigma": sometimes(s.smooth_p, uniform(*s.smooth_voxels, 3), 0.0),
        "factor": sometimes(s.intensity_p, uniform(1 - s.intensity, 1 + s.intensity), 1.0),
        "offset": sometimes(s.shift_p, uniform(-s.shift, s.shift), 0.0),
        "noise": sometimes(s.noise_p, uniform(0, s.noise), 0.0),
        "seed": torch.randint(2**31, (count,), generator=generator, device=generator.device),
    }


def join(draws: list[Draw], device: torch.device) -> Draw:
    """Join the parameters of several scans and move them to the device of the images."""
    return {key: torch.cat([one[key] for one in draws]).to(device, non_blocking=True) for key in draws[0]}


@torch.no_grad()
def apply(images: Tensor, drawn: Draw, settings: Augment, spacing_mm: Millimetres = CUBE) -> Tensor:
    """Apply drawn parameters to images (N, 1, Z, Y, X) in [0, 1]; the result is in [0, 1] too.

    A GPU takes all images at once. A CPU takes one after the other, which then stay in its cache, and leaves out what
    an image is spared.
    """
    drawn = {key: value.to(images.device) for key, value in drawn.items()}
    with torch.autocast(images.device.type, enabled=False):
        if images.is_cuda:
            return _apply(images, drawn, settings, spacing_mm)
        ones = [{key: value[i : i + 1] for key, value in drawn.items()} for i in range(len(images))]
        return torch.cat([_apply(images[i : i + 1], one, settings, spacing_mm) for i, one in enumerate(ones)])


def _apply(images: Tensor, drawn: Draw, settings: Augment, spacing_mm: Millimetres) -> Tensor:
    if _moves(settings):
        images = warp(images, theta(drawn, images.shape[2:], spacing_mm), "bilinear")
    if settings.histogram_p > 0 and (images.is_cuda or not torch.equal(drawn["points"][0], _ramp(settings))):
        images = histogram_shift(images, drawn["points"])
    if settings.smooth_p > 0 and (images.is_cuda or drawn["sigma"].any()):
        images = smooth(images, drawn["sigma"])
    if settings.intensity_p > 0 or settings.shift_p > 0:
        images = (images * _each(drawn["factor"])).add_(_each(drawn["offset"])).clamp_(0, 1)
    if settings.noise_p > 0 and (images.is_cuda or drawn["noise"].any()):
        images = torch.addcmul(images, noise(drawn["seed"], images.shape[2:]), _each(drawn["noise"])).clamp_(0, 1)
    return images


def noise(seeds: Tensor, shape: torch.Size) -> Tensor:
    """Return standard normal noise (N, 1, Z, Y, X): a function of each sample's seed and of the voxel alone.

    So it is drawn where the images are, at once, and is the same on any device and in any batch. The bits are those
    of a 32-bit hash (Wellons' lowbias32) of the voxel's number, made normal by Box and Muller's transform.
    """
    voxels = torch.arange(shape.numel(), device=seeds.device)
    first = _hash(_hash(voxels[None]) ^ seeds[:, None])
    second = _hash(first ^ 0x5BD1E995)
    radius = ((first + 1).float() / 2**32).log_().mul_(-2).sqrt_()
    return (radius * (second.float() * (2 * math.pi / 2**32)).cos_()).reshape(-1, 1, *shape)


def _hash(x: Tensor) -> Tensor:
    """Mix 32-bit numbers, held in int64; what overflows doesn't matter to the lower 32 bits."""
    mask = 2**32 - 1
    x = (x ^ (x >> 16)) * 0x7FEB352D & mask
    x = (x ^ (x >> 15)) * 0x846CA68B & mask
    return x ^ (x >> 16)


def _each(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1, 1)


def theta(drawn: Draw, shape: torch.Size, spacing_mm: Millimetres) -> Tensor:
    """Return (N, 3, 4) maps from output to input positions, axes (z, y, x), in units of half the patch from its centre.

    Rotation and scaling are about the centre of the patch, in mm (as ``monai.transforms.Affine``, there in voxels);
    then the crop's size and place.
    """
    half = torch.tensor([n * mm for n, mm in zip(shape, spacing_mm, strict=True)], device=drawn["zoom"].device) / 2
    turn = rotation(drawn["angles"]) * (drawn["zoom"] * drawn["flip"])[:, None, :]
    size = drawn["size"][:, None, None]
    linear = turn * half / half[:, None] * size
    shift = drawn["place"][:, :, None] * (1 - size)
    return torch.cat([linear, shift], dim=2)


def warp(images: Tensor, maps: Tensor, mode: str) -> Tensor:
    """Sample images (N, C, Z, Y, X) at affinely mapped positions; beyond the edge the edge value goes on.

    On a CPU maps that neither turn nor shear are three small matrix products, to the same values within rounding.
    """
    if mode == "bilinear" and not images.is_cuda and not (maps[:, :, :3] - maps[:, :, :3] * torch.eye(3)).any():
        along = [_stretch(n, maps[:, axis, axis], maps[:, axis, 3]) for axis, n in enumerate(images.shape[2:])]
        used = [matrix.any(dim=(0, 1)).nonzero() for matrix in along]
        parts = [slice(int(some.min()), int(some.max()) + 1) for some in used]  # the rest of the crop is not looked at
        cut = [matrix[:, :, part] for matrix, part in zip(along, parts, strict=True)]
        return _separable(images[:, :, parts[0], parts[1], parts[2]], cut)
    flipped = torch.cat([maps[:, :, :3].flip(1, 2), maps[:, :, 3:].flip(1)], dim=2)  # to torch's (x, y, z)
    grid = F.affine_grid(flipped, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def rotation(angles: Tensor) -> Tensor:
    """Return (N, 3, 3) rotations about the axes z, then y, then x: the product of the three, in this order."""
    (cz, cy, cx), (sz, sy, sx) = angles.cos().unbind(1), angles.sin().unbind(1)
    zero, one = torch.zeros_like(cz), torch.ones_like(cz)
    about_z = torch.stack([one, zero, zero, zero, cz, -sz, zero, sz, cz], 1)
    about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], 1)
    about_x = torch.stack([cx, -sx, zero, sx, cx, zero, zero, zero, one], 1)
    return about_z.reshape(-1, 3, 3) @ about_y.reshape(-1, 3, 3) @ about_x.reshape(-1, 3, 3)


def control_points(uniform: Tensor) -> Tensor:
    """Redraw the inner of equally spaced points between their neighbours, in order (as MONAI's histogram shift).

    Args:
        uniform: (N, P) numbers in [0, 1].
    """
    count, number = uniform.shape
    points = torch.linspace(0, 1, number, device=uniform.device).repeat(count, 1)
    for i in range(1, number - 1):
        low, high = points[:, i - 1].clone(), points[:, i + 1]
        points[:, i] = low + uniform[:, i] * (high - low)
    return points


def histogram_shift(images: Tensor, points: Tensor) -> Tensor:
    """Map intensities by a piecewise linear curve through ``points`` (N, P), over each image's own range."""
    shape, flat = (-1, 1, 1, 1, 1), images.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    pieces = points.shape[1] - 1
    width = (high - low).clamp(min=1e-12)
    position = (images - low.reshape(shape)) * (pieces / width).reshape(shape)
    rises = points.diff(dim=1) * width[:, None]
    out = (low + points[:, 0] * width).reshape(shape).expand_as(images).clone()
    for piece in range(pieces):  # the pieces are few, and each is one pass over memory
        out.addcmul_((position - piece).clamp_(0, 1), rises[:, piece].reshape(shape))
    return out


def smooth(images: Tensor, sigma: Tensor) -> Tensor:
    """Smooth by a Gaussian with standard deviations ``sigma`` (N, 3) voxels; zero leaves an axis as it is.

    The kernel is integrated over each voxel (as MONAI's ``erf``); at the edges it is cut and normalised.
    """
    return _separable(images, [_kernel(n, sigma[:, axis]) for axis, n in enumerate(images.shape[2:])])


def _separable(images: Tensor, along: list[Tensor]) -> Tensor:
    """Multiply images (N, C, Z, Y, X) by a matrix (N, new length, length) along each axis, x first."""
    out = images @ along[2].transpose(1, 2)[:, None, None]
    out = along[1][:, None, None] @ out
    count, channels, z, y, x = out.shape
    out = along[0][:, None] @ out.reshape(count, channels, z, y * x)
    return out.reshape(count, channels, -1, y, x)


def _stretch(length: int, scale: Tensor, shift: Tensor) -> Tensor:
    """Return (N, length, length) matrices that interpolate linearly at scaled and shifted positions of an axis."""
    index = torch.arange(length, device=scale.device, dtype=scale.dtype)
    outputs = (2 * index + 1) / length - 1  # from the centre, in units of half the length
    position = ((scale[:, None] * outputs + shift[:, None] + 1) * length - 1) / 2
    return (1 - (position.clamp(0, length - 1)[:, :, None] - index).abs()).clamp(min=0)


def _kernel(length: int, sigma: Tensor) -> Tensor:
    """Return (N, length, length) matrices that smooth along an axis."""
    index = torch.arange(length, device=sigma.device, dtype=sigma.dtype)
    distance = (index[:, None] - index)[None]
    t = math.sqrt(0.5) / sigma.clamp(min=1e-3)[:, None, None]
    weights = torch.erf(t * (distance + 0.5)) - torch.erf(t * (distance - 0.5))
    return weights / weights.sum(2, keepdim=True)


def _ramp(settings: Augment, device: torch.device | str = "cpu") -> Tensor:
    """Return the control points of a histogram that is not shifted."""
    return torch.linspace(0, 1, settings.histogram_points, device=device)


def _moves(settings: Augment) -> bool:
    return settings.affine_p > 0 or any(settings.flip_p) or settings.resized_crop != (1.0, 1.0)
