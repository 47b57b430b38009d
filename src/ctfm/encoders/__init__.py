"""Encoder architectures: one file, one architecture with its own preprocessing and the names its weights have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hub:
    """What lighter-zoo calls an architecture.

    Attributes:
        encoder: its class of the encoder.
        segmenter: its class of the encoder with a decoder.
        keywords: takes the config.json of either class and returns the encoder's part, as ``hub_config`` writes it.
    """

    encoder: str
    segmenter: str
    keywords: Callable[[Mapping[str, Any]], dict[str, Any]]
