"""What every fine-tuning of an encoder shares: its recipe, the frozen encoder, the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning
from torch import nn

from ctfm.config import Augment, Millimetres
from ctfm.training import optim


@dataclass(frozen=True)
class Recipe:
    """How a net is trained.

    Attributes:
        learning_rate: at the peak.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up.
        steps: in all.
        start: learning rate before the warm-up over the peak.
        end: last learning rate over the peak.
        augment: random views of the crops.
        seed: of the views.
        frozen: keep the encoder as it is, its BatchNorm statistics too.
    """

    learning_rate: float
    weight_decay: float
    warmup: float
    steps: int
    start: float
    end: float
    augment: Augment
    seed: int
    frozen: bool


class FineTuning(lightning.LightningModule):
    """A network whose ``encoder`` is fine-tuned, or kept as it is.

    Args:
        net: the network.
        spacing_mm: (z, y, x) of what it is shown.
        recipe: how it is trained.
    """

    def __init__(self, net: nn.Module, spacing_mm: Millimetres, recipe: Recipe) -> None:
        super().__init__()
        self.net, self.spacing_mm, self.recipe = net, spacing_mm, recipe
        if recipe.frozen:
            net.get_submodule("encoder").requires_grad_(False)
        self.train()  # Lightning keeps the modes that it finds

    def train(self, mode: bool = True) -> FineTuning:
        """Set the mode; a frozen encoder stays in evaluation, or its BatchNorm statistics would drift."""
        super().train(mode)
        if self.recipe.frozen:
            self.net.get_submodule("encoder").eval()
        return self

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate warms up and decays by the step."""
        r = self.recipe
        optimizer = optim.optimizer(self, "adamw", r.learning_rate, r.weight_decay)
        return optim.with_schedule(optimizer, r.warmup, r.steps, r.start, r.end)
