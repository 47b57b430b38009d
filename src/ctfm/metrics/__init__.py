"""Measures per case, and honest intervals."""
