"""Distillation methods, one page each; `engines` holds what several share, `recipes` the published settings."""
