"""Trajectory matching: experts, the gradient of the matching loss, the outer loop."""
