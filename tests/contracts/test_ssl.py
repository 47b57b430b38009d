"""What every file in src/ctfm/ssl must do; a new one is tested by being there."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from ctfm import plugins
from ctfm.training import seeds
from tests.contracts.small import encoder_settings, objective_settings

NAMES = plugins.names("ssl")


class Counting(torch.nn.Module):
    """A small encoder that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = plugins.get("encoders", "segresnet").build(encoder_settings("segresnet"))
        self.channels, self.calls = self.inner.channels, 0

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.calls += 1
        return self.inner(x)


def made(name, seed=0):
    plugin = plugins.get("ssl", name)
    with seeds.seeded(seed):
        encoder = Counting()
        return encoder, plugin.Method(objective_settings(name), encoder.channels[-1])


def views() -> torch.Tensor:
    return torch.rand(2, 4, 2, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_defaults_go_through_json_and_refuse_unknown_keys(name):
    settings = plugins.get("ssl", name).Settings
    assert settings.model_validate_json(settings().model_dump_json()) == settings()
    assert plugins.settings("ssl", name)().model_dump() == settings().model_dump()
    assert all(field.description for field in settings.model_fields.values())
    with pytest.raises(ValidationError):
        settings(no_such_key=1)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_finite_and_reaches_every_parameter_in_one_call(name):
    encoder, method = made(name)
    loss, embeddings = method.loss(encoder, views())
    assert loss.ndim == 0 and loss.isfinite()
    assert embeddings.shape[0] == 2 * 4 * 2 and embeddings.ndim == 2
    assert encoder.calls == 1
    loss.backward()
    for key, parameter in [*encoder.named_parameters(), *method.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_result(name):
    results = []
    for seed in (0, 0, 1):
        encoder, method = made(name, seed)
        results.append(float(method.loss(encoder, views())[0].detach()))
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_one_batch(name):
    encoder, method = made(name)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *method.parameters()], lr=3e-4)
    losses = []
    for _ in range(20):
        loss, _ = method.loss(encoder, views())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1 * abs(losses[0])
