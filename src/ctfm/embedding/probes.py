"""Simple classifiers on frozen embeddings: linear, nearest neighbours, attentive pooling of patches.

Each takes a fold and returns logits of its test cases, (cases, classes): their softmax is the probability. What has to
be chosen (the penalty, the number of neighbours, the epoch) is the one with the least log loss on the cases set aside
for that. Features are standardised by the mean and deviation of the training cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from ctfm.embedding import nearest
from ctfm.embedding.targets import Fold
from ctfm.training import seeds

PENALTIES = tuple(10.0**power for power in range(-5, 2))  # inverse strength, as scikit-learn has it
NEIGHBOURS = (3, 5, 10, 20, 50)
TEMPERATURE = 0.07  # of the neighbours' votes, as in DINO's evaluation
ATTENTION = {"epochs": 40, "batch": 32, "rate": 2e-3, "decay": 1e-2, "width": 64, "patches": 128}
Bags = Sequence[np.ndarray]
Probe = Callable[[Bags, np.ndarray, Fold, int], np.ndarray]


def linear(bags: Bags, label: np.ndarray, fold: Fold, seed: int) -> np.ndarray:
    """Fit a logistic regression on the vectors of scans; once more with the cases that the penalty was chosen by.

    Args:
        bags: of each case the vectors (n, channels); here n is 1.
        label: (cases,) class from 0 on.
        fold: who is fitted on, chosen by and predicted.
        seed: not used.
    """
    features = np.concatenate([bag[:1] for bag in bags])
    fit = lambda rows, c: _regression(features, label, rows, c)  # noqa: E731
    loss = [log_loss(fit(fold.train, c)(fold.choose), label[fold.choose]) for c in PENALTIES]
    both = np.union1d(fold.train, fold.choose)
    return fit(both, PENALTIES[int(np.argmin(loss))])(fold.test)


def knn(bags: Bags, label: np.ndarray, fold: Fold, seed: int) -> np.ndarray:
    """Let the nearest scans vote, by cosine of the standardised vectors, nearer ones counting more.

    Arguments as in ``linear``.
    """
    features = np.concatenate([bag[:1] for bag in bags])
    both, count = np.union1d(fold.train, fold.choose), int(label.max()) + 1
    found = _neighbours(features, label, fold.train, fold.choose)
    loss = [log_loss(_votes(*found, k, count), label[fold.choose]) for k in NEIGHBOURS]
    return _votes(*_neighbours(features, label, both, fold.test), NEIGHBOURS[int(np.argmin(loss))], count)


def attentive(bags: Bags, label: np.ndarray, fold: Fold, seed: int) -> np.ndarray:
    """Train a query that attends to the patches of a scan, and a linear layer that reads their weighted mean.

    Args:
        bags: of each case the vectors (patches, channels).
        label: as in ``linear``.
        fold: as in ``linear``.
        seed: of the weights and the order of cases.
    """
    scaler = StandardScaler().fit(np.concatenate([bags[i] for i in fold.train]))
    scaled = [torch.from_numpy(scaler.transform(bag).astype(np.float32)) for bag in bags]
    classes, best = int(label.max()) + 1, (np.inf, np.empty(0))
    with seeds.seeded(seed):
        model = Attentive(scaled[0].shape[1], classes)
        optimizer = torch.optim.AdamW(model.parameters(), ATTENTION["rate"], weight_decay=ATTENTION["decay"])
        for _ in range(int(ATTENTION["epochs"])):
            _epoch(model, optimizer, scaled, label, fold.train)
            with torch.inference_mode():
                loss = log_loss(_logits(model, scaled, fold.choose), label[fold.choose])
                if loss < best[0]:
                    best = (loss, _logits(model, scaled, fold.test))
    return best[1]


class Attentive(nn.Module):
    """Attention with one learned query (Ilse et al. 2018, doi:10.48550/arXiv.1802.04712, without the gate)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(channels, int(ATTENTION["width"])), nn.Tanh())
        self.query = nn.Linear(int(ATTENTION["width"]), 1)
        self.head = nn.Linear(channels, classes)

    def forward(self, patches: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return logits of (cases, patches, channels); ``there`` (cases, patches) is false where one is padded."""
        weight = self.query(self.score(patches))[..., 0].masked_fill(~there, -torch.inf).softmax(dim=1)
        return self.head((weight[..., None] * patches).sum(dim=1))


PROBES: dict[str, Probe] = {"linear": linear, "knn": knn, "attentive": attentive}


def log_loss(logits: np.ndarray, label: np.ndarray) -> float:
    """Return the mean negative logarithm of the probability of the true class."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(label)), label].mean())


def _regression(features: np.ndarray, label: np.ndarray, rows: np.ndarray, c: float) -> Callable:
    scaler = StandardScaler().fit(features[rows])
    model = LogisticRegression(C=c, max_iter=2000).fit(scaler.transform(features[rows]), label[rows])

    def predict(others: np.ndarray) -> np.ndarray:
        found = model.decision_function(scaler.transform(features[others]))
        logits = np.full((len(others), label.max() + 1), -30.0)  # of a class that the training cases don't show
        logits[:, model.classes_] = found if found.ndim == 2 else np.stack([-found / 2, found / 2], 1)
        return logits

    return predict


def _neighbours(
    features: np.ndarray, label: np.ndarray, known: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes of the nearest cases, nearest first, and the weight of each."""
    scaler = StandardScaler().fit(features[known])
    table = nearest.unit(scaler.transform(features[known]))
    rows, cosines = nearest.search(table, scaler.transform(features[asked]), max(NEIGHBOURS))
    return label[known][rows], np.exp((cosines - 1) / TEMPERATURE)


def _votes(classes: np.ndarray, weight: np.ndarray, k: int, count: int) -> np.ndarray:
    """Return the logarithm of the first ``k`` votes for each of ``count`` classes."""
    votes = (weight[:, :k, None] * np.eye(count)[classes[:, :k]]).sum(axis=1)
    share = votes / weight[:, :k].sum(axis=1, keepdims=True)
    return np.log(share * k + 1 / count)  # as if one more had voted for all classes alike


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    bags: Sequence[torch.Tensor],
    label: np.ndarray,
    rows: np.ndarray,
) -> None:
    order = rows[torch.randperm(len(rows)).numpy()]
    most, size = int(ATTENTION["patches"]), int(ATTENTION["batch"])
    for start in range(0, len(order), size):
        some = order[start : start + size]
        patches, there = _padded([bags[i][torch.randperm(len(bags[i]))[:most]] for i in some])
        loss = nn.functional.cross_entropy(model(patches, there), torch.from_numpy(label[some]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _logits(model: nn.Module, bags: Sequence[torch.Tensor], rows: np.ndarray) -> np.ndarray:
    return np.concatenate([model(*_padded([bags[i]])).numpy() for i in rows])


def _padded(bags: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(bag) for bag in bags])
    there = torch.arange(int(lengths.max())) < lengths[:, None]
    return nn.utils.rnn.pad_sequence(bags, batch_first=True), there
