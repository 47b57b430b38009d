"""Numbers that tell whether embeddings collapse."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def collapse(embeddings: Tensor) -> dict[str, Tensor]:
    """Measure how widely embeddings (n, D) spread.

    Returns:
        ``embedding_std``: mean standard deviation of the normalised embeddings' coordinates, times the square root
        of D: 0 when all are equal, 1 when they spread evenly over the sphere.
        ``effective_rank``: exponential of the entropy of the singular values of the centred embeddings
        (Roy and Vetterli, EUSIPCO 2007), at most min(n - 1, D).
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.double().nan_to_num(), dim=1)  # float32 would turn rounding into rank
        centred = unit - unit.mean(0)
        gram = centred @ centred.T if len(unit) < unit.shape[1] else centred.T @ centred
        singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
        share = singular / singular.sum().clamp(min=1e-12)
        entropy = -torch.special.xlogy(share, share).sum()
        std = centred.square().mean(0).sqrt().mean() * unit.shape[1] ** 0.5
        return {"embedding_std": std, "effective_rank": entropy.exp()}
