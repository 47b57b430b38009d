"""Settings that make a plug-in small enough for a test: fields named here, where the plug-in has them."""

from __future__ import annotations

from typing import Any

from ctfm import plugins

SMALL_ENCODER: dict[str, Any] = {"init_filters": 4, "blocks_down": (1, 1, 1, 1, 1)}


def encoder_settings(name: str) -> Any:
    """Return small settings of an encoder."""
    settings = plugins.get("encoders", name).Settings
    return settings(**{key: value for key, value in SMALL_ENCODER.items() if key in settings.model_fields})
