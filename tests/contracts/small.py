"""Settings that make a plug-in small enough for a test: fields named here, where the plug-in has them."""

from __future__ import annotations

from typing import Any

from ctfm import plugins

SMALL_ENCODER: dict[str, Any] = {"init_filters": 4, "blocks_down": (1, 1, 1, 1, 1)}
OTHERS: dict[str, dict[str, Any]] = {"suprem_segresnet": {"init_filters": 8, "blocks_down": (1, 1, 1, 1)}}


def encoder_settings(name: str) -> Any:
    """Return small settings of an encoder."""
    settings = plugins.get("encoders", name).Settings
    small = OTHERS.get(name, SMALL_ENCODER)
    return settings(**{key: value for key, value in small.items() if key in settings.model_fields})


def objective_settings(name: str) -> object:
    """Return the settings of an objective, with wide heads made narrow."""
    narrow = {"simsiam": {"projection": 64, "prediction": 16}, "vicreg": {"expander": 64}}
    return plugins.get("ssl", name).Settings(**narrow.get(name, {}))
