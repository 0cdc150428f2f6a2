"""Grids of hyper-parameter values: read from `KEY=V1,V2` words, and turned into combinations."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, cast

import torch
from pydantic import TypeAdapter, ValidationError

from ddbench.distillation.method import Method
from ddbench.errors import UsageError, first_problem, unknown
from ddbench.randomness import rng

MOST = 10_000  # combinations of a grid


def parse_grid(method: Method, words: Sequence[str]) -> dict[str, list[Any]]:
    """Read `KEY=V1,V2,...` words (or `KEY=[...]`, a JSON list, for values with commas) by the types of the fields.

    Raises:
        UsageError: no `=`, no value, an unknown key, one given twice, a value that does not read as the field's type.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not text:
            raise UsageError(f"--grid {word}: KEY=VALUE,VALUE,... is needed")
        if key not in method.hyper.model_fields:
            raise unknown(f"hyper-parameter of {method.name}", key, method.hyper.model_fields)
        if key in grid:
            raise UsageError(f"--grid {key} is given twice")
        grid[key] = _values(method, key, text)
    return grid


def _values(method: Method, key: str, text: str) -> list[Any]:
    field: TypeAdapter[Any] = TypeAdapter(cast(Any, method.hyper.model_fields[key].annotation))
    try:
        if text.startswith("["):
            return [field.validate_json(json.dumps(value)) for value in json.loads(text)]
        return [field.validate_python(value.strip()) for value in text.split(",")]
    except ValidationError as error:
        raise UsageError(f"--grid {key}={text}: {first_problem(error)}") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"--grid {key}={text}: not a JSON list: {error}") from error


def draw(grid: Mapping[str, Sequence[Any]], trials: int | None, seed: int) -> list[dict[str, Any]]:
    """List the combinations of a grid, the last key varying fastest; with `trials`, draw that many by the seed.

    The keys keep their order, so scikit-learn's `ParameterGrid`, which sorts them, would draw others.

    Raises:
        UsageError: an empty grid, a value given twice, trials below 1, more than 10,000 combinations.
    """
    empty = [key for key, values in grid.items() if not values]
    twice = [key for key, values in grid.items() if len({json.dumps(v, default=str) for v in values}) < len(values)]
    if not grid or empty:
        raise UsageError(f"the grid needs values to try{f' for {empty[0]}' if empty else ''}")
    if twice:
        raise UsageError(f"the grid tries a value of {twice[0]} twice: {list(grid[twice[0]])}")
    if trials is not None and trials < 1:
        raise UsageError(f"trials must be at least 1, not {trials}")
    total = math.prod(len(values) for values in grid.values())
    if total > MOST:
        raise UsageError(f"the grid has {total:,} combinations, at most {MOST:,} are allowed")
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if trials is None or trials >= total:
        return combinations
    return [combinations[place] for place in torch.randperm(total, generator=rng(seed, "tune"))[:trials].tolist()]
