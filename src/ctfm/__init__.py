"""CT foundation models, from the Imaging Data Commons to the paper's figures."""

__version__ = "0.1.0"
