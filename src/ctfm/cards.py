"""Model cards: what stands beside weights for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jinja2


def card(about: Mapping[str, Any], plugin: ModuleType) -> str:
    """Return the card of an encoder, or of a segmentation net if there are ``labels``, as Markdown.

    Args:
        about: what preprocessing.json holds.
        plugin: the architecture: a module of ctfm.encoders.
    """
    loader = jinja2.PackageLoader("ctfm", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=False, trim_blocks=True, lstrip_blocks=True)
    environment.keep_trailing_newline = True
    spacing = " x ".join(f"{value:g}" for value in about["preprocess"]["spacing_mm"])
    labels = about.get("labels", [])
    return environment.get_template("card.md").render(
        {**about, "hub": plugin.HUB, "multiple": plugin.multiple, "spacing": spacing, "labels": labels}
    )
