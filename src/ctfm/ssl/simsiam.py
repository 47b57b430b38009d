"""SimSiam (Chen and He, arXiv:2011.10566): predict one view's projection from the other's; no negatives.

The loss compares the two views of a crop alone, so ``sampling`` changes nothing but the order of means: with equally
many crops of every scan both give the same number. It is there so that configurations of the objectives match.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctfm.config import Objective
from ctfm.ssl._batches import batches, mlp, pooled


class Settings(Objective):
    """Widths of the two heads; the defaults are the paper's of SimSiam."""

    projection: int = Field(2048, ge=1, description="width of the three layers of the projection head")
    prediction: int = Field(512, ge=1, description="hidden width of the prediction head")


class Method(nn.Module):
    """Projection head, prediction head and loss."""

    def __init__(self, settings: Settings, channels: int) -> None:
        super().__init__()
        self.settings, width = settings, settings.projection
        self.project = mlp([channels, width, width, width], norm=True, last=nn.BatchNorm1d(width, affine=False))
        self.predict = mlp([width, settings.prediction, width], norm=True)

    def loss(self, encoder: nn.Module, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss in [-1, 1], and the projections (B*N*2, D) of views (B, N, 2, 1, Z, Y, X) in [0, 1]."""
        projections = self.project(pooled(encoder, views))
        predictions = self.predict(projections)
        with torch.autocast(projections.device.type, enabled=False):
            z, p = (
                batches(rows.reshape(*views.shape[:3], -1), self.settings.sampling)
                for rows in (projections, predictions)
            )
            return negative_cosine(z, p), projections


def negative_cosine(projections: Tensor, predictions: Tensor) -> Tensor:
    """Return -(cos(z1, p2) + cos(z2, p1)) / 2, where no gradient flows through the projections z.

    Args:
        projections: (B batches, N crops, 2 views, D).
        predictions: the same shape, of the same views.
    """
    return -F.cosine_similarity(projections.detach(), predictions.flip(2), dim=3).mean()
