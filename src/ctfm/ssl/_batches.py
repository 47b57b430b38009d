"""What the objectives share: pooled features, heads, and which crops are compared with which.

``intra``: the crops of one scan are a batch of their own (CT-FM). ``cross``: all crops of the step, over all
processes, are one batch, as in the papers of the objectives.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


def pooled(encoder: nn.Module, views: Tensor) -> Tensor:
    """Return the mean of the coarsest map of every view: (B*N*2, C). One call of the encoder.

    BatchNorm thus sees all views of the batch, where the published code called the network for each view by itself.

    Args:
        encoder: returns a list of maps, the last the coarsest.
        views: (B scans, N crops, 2 views, 1, Z, Y, X) in [0, 1].
    """
    return encoder(views.flatten(0, 2))[-1].mean((2, 3, 4))


def mlp(widths: Sequence[int], norm: bool, last: nn.Module | None = None) -> nn.Sequential:
    """Make linear layers with ReLU between them; with ``norm`` BatchNorm before each ReLU, and no biases there.

    Args:
        widths: of the input, of each hidden layer, of the output.
        norm: whether hidden layers are normalised.
        last: what follows the last linear layer, which then has no bias.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(before, after, bias=not norm), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last is None))
    return nn.Sequential(*layers, *([last] if last else []))


def batches(embeddings: Tensor, sampling: str) -> Tensor:
    """Return the batches that a loss is computed in, in single precision or better.

    Args:
        embeddings: (B scans, N crops, 2 views, D) of this process.
        sampling: see above.

    Returns:
        (B, N, 2, D), or for ``cross`` (1, processes * B * N, 2, D), the same in every process. Its gradient is such
        that the mean over the processes' parameter gradients, as DDP takes it, is that of the loss.
    """
    wide = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    if sampling == "intra":
        return wide
    flat = wide.flatten(0, 1)
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        flat = _Gather.apply(flat)
    return flat[None]


class _Gather(torch.autograd.Function):
    """Join the rows of all processes; each process gets back the sum of all gradients for its own rows.

    Processes may hold different numbers of rows: a scan that can't be read leaves its place empty.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(distributed.get_world_size())]
        distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        ctx.counts = torch.cat(counts).tolist()
        padded = rows.new_zeros(max(ctx.counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in ctx.counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, ctx.counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.split(ctx.counts)[distributed.get_rank()]
