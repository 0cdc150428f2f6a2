"""Matching of distributions and attention, and what all matching methods share."""
