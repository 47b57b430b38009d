"""Kinds of downstream task: one file, one kind."""
