"""Synthetic CT with known anatomy."""
