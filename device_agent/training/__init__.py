"""Local training: optimisers, the training loop, and the low-priority process that runs it."""
