"""Figures of the paper: one file, one figure; they read only tables."""
