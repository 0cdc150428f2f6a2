"""Distillation: what a method is given (`task`), what it is (`method`), its recipes, and intermediate sets."""
