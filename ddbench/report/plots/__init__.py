"""Plots of results, each the answer to a question: `registry` lists and draws them; `style` has their looks."""

SUFFIXES = (".png", ".svg", ".pdf")
"""Forms of a plot's file."""
