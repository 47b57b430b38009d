"""Numbers that tell what a representation is like, and whether it collapses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

FLAT_STD, FLAT_RANK = 0.05, 2.0


@torch.no_grad()
def representation(embeddings: Tensor) -> dict[str, Tensor]:
    """Measure embeddings (n * 2, D) of the two views of n crops, the views of a crop beside each other.

    Returns:
        ``alignment`` and ``uniformity`` (Wang and Isola, arXiv:2005.10242, with exponents 2 and 2): the mean squared
        distance of the views of a crop, and the logarithm of the mean Gaussian potential of two crops, each view for
        itself, then the mean of both. Less is better.
        ``embedding_std`` and ``effective_rank``: see ``spread``.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        # In single precision rounding would turn into rank.
        unit = F.normalize(embeddings.double().nan_to_num(), dim=1)
        views = unit.unflatten(0, (-1, 2)).transpose(0, 1)  # (2, n, D)
        alignment = (views[0] - views[1]).square().sum(1).mean()
        return {"alignment": alignment, "uniformity": _uniformity(views), **spread(unit)}


def spread(unit: Tensor) -> dict[str, Tensor]:
    """Measure how widely normalised embeddings (n, D) spread.

    Returns:
        ``embedding_std``: mean standard deviation of the coordinates, times the square root of D: 0 when all
        embeddings are equal, 1 when they spread evenly over the sphere.
        ``effective_rank``: exponential of the entropy of the singular values of the centred embeddings
        (Roy and Vetterli, EUSIPCO 2007), at most min(n - 1, D).
    """
    centred = unit - unit.mean(0)
    gram = centred @ centred.T if len(unit) < unit.shape[1] else centred.T @ centred
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=1e-12)
    entropy = -torch.special.xlogy(share, share).sum()
    std = centred.square().mean(0).sqrt().mean() * unit.shape[1] ** 0.5
    return {"embedding_std": std, "effective_rank": entropy.exp()}


def collapsed(row: Mapping[str, float]) -> str | None:
    """Return what an epoch's means tell of a collapse, or None."""
    std, rank = row.get("embedding_std", 1.0), row.get("effective_rank", FLAT_RANK)
    if std < FLAT_STD:
        return f"the embeddings collapse: all are nearly equal (embedding_std {std:.3g}, 1 is widest)"
    if rank < FLAT_RANK:
        return f"the embeddings collapse: they vary along one line (effective_rank {rank:.3g})"
    return None


def _uniformity(views: Tensor) -> Tensor:
    """Return log mean exp(-2 d^2) over the pairs of different crops of each view (2, n, D); one crop has none: 0."""
    count = views.shape[1]
    if count < 2:
        return views.new_zeros(())
    squared = 2 - 2 * views @ views.transpose(1, 2)
    potential = (-2 * squared).exp().triu(diagonal=1).sum((1, 2)) / (count * (count - 1) / 2)
    return potential.log().mean()
