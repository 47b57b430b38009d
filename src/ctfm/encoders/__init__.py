"""Encoder architectures: one file, one architecture with its own preprocessing."""
