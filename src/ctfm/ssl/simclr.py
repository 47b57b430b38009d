"""SimCLR (Chen et al., arXiv:2002.05709), by default within each scan as CT-FM (Methods, "Pre-training").

Two views of a crop are a positive pair; the views of the other crops of its batch are the negatives. With
``sampling: intra`` nothing is compared between scans, so scanners and protocols can't serve as a short cut.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctfm.config import Objective
from ctfm.ssl._batches import batches, mlp, pooled


class Settings(Objective):
    """The loss and the projection head."""

    temperature: float = Field(0.1, gt=0, description="temperature of the similarities")
    symmetric: bool = Field(True, description="both views are anchors (paper); false: the first alone (its code)")
    projection: tuple[int, int] = Field((256, 128), description="hidden and output width of the projection head")


class Method(nn.Module):
    """The projection head and the loss."""

    def __init__(self, settings: Settings, channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.head = mlp([channels, *settings.projection], norm=False)

    def loss(self, encoder: nn.Module, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and the embeddings (B*N*2, D) of views (B, N, 2, 1, Z, Y, X) in [0, 1]."""
        s, embeddings = self.settings, self.head(pooled(encoder, views))
        with torch.autocast(embeddings.device.type, enabled=False):
            compared = batches(embeddings.reshape(*views.shape[:3], -1), s.sampling)
            return ntxent(compared, s.temperature, s.symmetric), embeddings


def ntxent(embeddings: Tensor, temperature: float, symmetric: bool) -> Tensor:
    """Return the cross-entropy of finding an anchor's other view among 2N - 1 views of its batch.

    Args:
        embeddings: (B batches, N crops, 2 views, D), at least two crops; normalised here.
        temperature: divides the cosine similarities.
        symmetric: whether both views are anchors, or the first alone.

    Returns:
        The mean over the anchors of a batch, then over batches.
    """
    count, crops, _, _ = embeddings.shape
    every = F.normalize(embeddings, dim=3).transpose(1, 2).flatten(1, 2)  # (B, 2N, D): first views, then second views
    anchors = 2 * crops if symmetric else crops
    logits = every[:, :anchors] @ every.transpose(1, 2) / temperature
    number = torch.arange(anchors, device=logits.device)
    logits[:, number, number] = -torch.inf
    target = (number + crops) % (2 * crops)
    return F.cross_entropy(logits.flatten(0, 1), target.repeat(count))
