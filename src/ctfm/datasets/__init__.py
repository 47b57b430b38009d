"""Labelled data sets: one file, one layout on disk."""
