"""Self-supervised objectives: one file, one method."""
