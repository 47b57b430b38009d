"""VICReg (Bardes et al., arXiv:2105.04906): equal views, every coordinate varies, no two coordinates vary together.

Variance and covariance are those of a batch: the crops of one scan (``sampling: intra``), or all of the step.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctfm.config import Objective
from ctfm.ssl._batches import batches, mlp, pooled

EPSILON = 1e-4  # under the square root of the variance


class Settings(Objective):
    """Weights of the three terms and width of the expander; the defaults are the paper's of VICReg."""

    expander: int = Field(8192, ge=1, description="width of the three layers of the expander")
    invariance: float = Field(25.0, ge=0, description="weight of the distance between the two views")
    variance: float = Field(25.0, ge=0, description="weight of the variance term")
    covariance: float = Field(1.0, ge=0, description="weight of the covariance term")


class Method(nn.Module):
    """The expander and the loss."""

    def __init__(self, settings: Settings, channels: int) -> None:
        super().__init__()
        self.settings, width = settings, settings.expander
        self.expand = mlp([channels, width, width, width], norm=True)

    def loss(self, encoder: nn.Module, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and the embeddings (B*N*2, D) of views (B, N, 2, 1, Z, Y, X) in [0, 1]."""
        s, embeddings = self.settings, self.expand(pooled(encoder, views))
        with torch.autocast(embeddings.device.type, enabled=False):
            compared = batches(embeddings.reshape(*views.shape[:3], -1), s.sampling)
            invariance, variance, covariance = terms(compared)
            return s.invariance * invariance + s.variance * variance + s.covariance * covariance, embeddings


def terms(embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the invariance, variance and covariance term, each the mean over batches.

    Args:
        embeddings: (B batches, N crops, 2 views, D), at least two crops.

    The covariance matrix (D, D) is never made: the sum of its squares is that of the Gram matrix (N, N), which for
    the crops of a scan is some hundred thousand times smaller.
    """
    count, width = embeddings.shape[1], embeddings.shape[3]
    invariance = F.mse_loss(embeddings[:, :, 0], embeddings[:, :, 1])
    centred = (embeddings - embeddings.mean(1, keepdim=True)).transpose(1, 2)  # (B, 2, N, D)
    variances = centred.square().sum(2) / (count - 1)
    variance = F.relu(1 - (variances + EPSILON).sqrt()).mean()
    gram = centred @ centred.transpose(2, 3) / (count - 1)
    squares = gram.square().sum((2, 3)) - variances.square().sum(2)  # of all entries, less the diagonal
    return invariance, variance, (squares / width).sum(1).mean()
