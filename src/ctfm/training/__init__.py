"""What every training shares: loop, data, views, optimiser, checkpoints."""
