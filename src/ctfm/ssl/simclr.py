"""Intra-sample SimCLR (CT-FM, Methods): tell the crops of one scan apart, whatever was done to their views.

Two views of a crop are a positive pair; the views of the other crops of the same scan are the negatives. Nothing
is compared between scans, so scanners and protocols can't serve as a short cut.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctfm.config import Strict


class Settings(Strict):
    """The loss and the projection head."""

    temperature: float = Field(0.1, gt=0, description="temperature of the similarities")
    symmetric: bool = Field(True, description="both views are anchors (paper); false: the first alone (its code)")
    projection: tuple[int, int] = Field((256, 128), description="hidden and output width of the projection head")


class Method(nn.Module):
    """The projection head and the loss."""

    def __init__(self, settings: Settings, channels: int) -> None:
        super().__init__()
        hidden, width = settings.projection
        self.settings = settings
        self.head = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def loss(self, encoder: nn.Module, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and the embeddings (B*N*2, D).

        Args:
            encoder: returns a list of maps, the last the coarsest; called once, over all views.
            views: (B scans, N crops, 2 views, 1, Z, Y, X) in [0, 1]. BatchNorm thus sees all views of the batch,
                where the published code called the network for each view by itself.
        """
        embeddings = self.head(encoder(views.flatten(0, 2))[-1].mean((2, 3, 4)))
        per_scan = embeddings.reshape(*views.shape[:3], -1)
        return intra_sample_ntxent(per_scan, self.settings.temperature, self.settings.symmetric), embeddings


def intra_sample_ntxent(embeddings: Tensor, temperature: float, symmetric: bool) -> Tensor:
    """Return the cross-entropy of finding an anchor's other view among 2N - 1 views of its scan.

    Args:
        embeddings: (B scans, N crops, 2 views, D), at least two crops; normalised here.
        temperature: divides the cosine similarities.
        symmetric: whether both views are anchors, or the first alone.

    Returns:
        The mean over the anchors of a scan, then over scans.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        scans, crops, _, _ = embeddings.shape
        wide = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        every = F.normalize(wide, dim=3).transpose(1, 2).flatten(1, 2)  # (B, 2N, D): first views, then second views
        anchors = 2 * crops if symmetric else crops
        logits = every[:, :anchors] @ every.transpose(1, 2) / temperature
        number = torch.arange(anchors, device=logits.device)
        logits[:, number, number] = -torch.inf
        target = (number + crops) % (2 * crops)
        return F.cross_entropy(logits.flatten(0, 1), target.repeat(scans))
