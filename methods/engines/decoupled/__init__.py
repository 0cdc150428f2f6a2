"""Squeeze, recover, relabel, and patches of real images."""
