"""Choices of real images: coresets, training dynamics, pruning scores, bins."""
