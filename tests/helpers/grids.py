"""A small grid: the toy method on digits."""

from ddbench.budget import Budget
from ddbench.jobs.job import DataName
from ddbench.jobs.sweep import Grid


def toy_grid(**changes):
    fields = {"methods": ["toy"], "datasets": [DataName("digits")], "budgets": [Budget(ipc=1)], "recipe": "generic"}
    return Grid(**{**fields, "protocols": ["toy-hard-v1"], "seeds": (0, 1), **changes})
