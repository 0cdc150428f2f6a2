"""Recipe file of the winner of a search."""

import json
from collections.abc import Mapping
from typing import Any

from ddbench.distillation.recipes import Resolved, parse
from ddbench.errors import DDBenchError


def recipe_text(best: Resolved, dataset: str, source: str) -> str:
    """Write a resolved recipe as a recipe file, named "tuned", with every hyper-parameter.

    Args:
        best: the recipe; its own data set is a holdout.
        dataset: id of the data set that the file is for.
        source: one line on where the settings come from.

    Raises:
        DDBenchError: a value that TOML cannot hold, so that the file would not read back as the winner.
    """
    budget, network = best.budget.to_json(), best.network
    entry = {"name": "tuned", "dataset": dataset, **budget, "network": network, "default": True, "source": source}
    hyper = {key: value for key, value in best.hyper.model_dump(mode="json").items() if value is not None}
    lines = [f"method = {toml_value(best.method.name)}", "", "[[recipe]]"]
    lines += [f"{key} = {toml_value(value)}" for key, value in entry.items()]
    lines += ["", "[recipe.hyper]", *(f"{toml_key(key)} = {toml_value(value)}" for key, value in hyper.items())]
    text = "\n".join(lines) + "\n"
    read = parse(text, "tuned recipe").recipe[0].hyper
    if type(best.hyper).model_validate_json(json.dumps(read)) != best.hyper:
        raise DDBenchError("a recipe file cannot hold a value of the winner: None, where the default is another")
    return text


def toml_key(key: str) -> str:
    """Write a key as TOML."""
    return key if key.isascii() and key.replace("_", "").replace("-", "").isalnum() else toml_value(key)


def toml_value(value: Any) -> str:
    """Write plain data as TOML: texts, numbers, truth values, lists, and tables without None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(toml_value(item) for item in value) + "]"
