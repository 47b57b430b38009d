"""Verbs: one module for each stage of the workflow."""
