"""Encoder architectures: one file, one architecture with its own preprocessing and the names its weights have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hub:
    """What lighter-zoo calls an architecture.

    Attributes:
        encoder: its class of the encoder.
        segmenter: its class of the encoder with a decoder.
    """

    encoder: str
    segmenter: str
