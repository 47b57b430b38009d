"""torch's SyncBatchNorm refuses a CPU; this one does the same there."""

from __future__ import annotations

import torch
from torch.distributed.nn.functional import all_reduce


def forward(self: torch.nn.SyncBatchNorm, x: torch.Tensor) -> torch.Tensor:
    """Normalise by mean and variance over all processes."""
    axes = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    number = all_reduce(torch.tensor(float(x.numel() // x.shape[1])))
    mean = all_reduce(x.sum(axes)) / number
    centred = x - mean.reshape(shape)
    variance = all_reduce(centred.square().sum(axes)) / number
    with torch.no_grad():
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * number / (number - 1), self.momentum)
    scaled = centred / (variance.reshape(shape) + self.eps).sqrt()
    return scaled * self.weight.reshape(shape) + self.bias.reshape(shape)


def use_on_a_cpu() -> None:
    """Put it in the place of torch's."""
    torch.nn.SyncBatchNorm.forward = forward  # type: ignore[method-assign]
    torch.nn.parallel.DistributedDataParallel._passing_sync_batchnorm_handle = lambda self, module: None
