"""CT foundation models, from the Imaging Data Commons to the paper's figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctfm.embedding.encode import Encoder

__version__ = "0.1.0"


def load_encoder(folder: Path | str) -> Encoder:
    """Load a frozen encoder for use: ``ctfm.load_encoder(folder).embed("scan.nii.gz")`` is a vector.

    Args:
        folder: what 'ctfm export' or 'ctfm import-weights' made, or its name below results/.

    Raises:
        UserError: a file is missing or malformed.
    """
    from ctfm.embedding.encode import Encoder  # torch is imported only here

    return Encoder(folder)
