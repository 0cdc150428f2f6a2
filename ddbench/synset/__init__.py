"""Synthetic sets: `SynSet`, teachers, targets, views, label compression and matched-recipe baselines."""
