"""How people read budgets, accuracies, bytes and times: percent and points with one decimal, a dash for the unknown.

What is not known is None or NaN; accuracies and differences come in as fractions.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

DASH, DAGGER, DDAGGER, MARK = "—", "†", "‡", "*"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def budget_words(label: str) -> str:
    """A budget: "IPC 10", "fraction 0.1", "all"; see `ddbench.records.store.budget_label`."""
    return label.replace("ipc", "IPC").replace("frac ", "fraction ")


def counted(count: int, thing: str) -> str:
    """A number of things: "1 set", "2 sets"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def percent(value: float | None) -> str:
    """An accuracy: "71.2"."""
    return DASH if value is None or value != value else f"{100 * value:.1f}"


def signed(value: float | None) -> str:
    """A difference in points: "+1.4"."""
    return DASH if value is None or value != value else f"{round(100 * value, 1) + 0.0:+.1f}"  # no -0.0


def half(low: float | None, high: float | None) -> str:
    """Half of an interval, for behind its middle: " ±1.4"; nothing where there is none."""
    return "" if low is None or high is None or low != low else f" ±{50 * (high - low):.1f}"


def between(low: float | None, high: float | None, written: Callable[[float], str] = percent) -> str:
    """The ends of an interval: "69.5 to 72.9"."""
    return DASH if low is None or high is None or low != low else f"{written(low)} to {written(high)}"


def component(value: Any) -> str:
    """A component as people write a call: "sgd(lr=0.01, momentum=0.9)"; long numbers, learned ones, with five digits."""
    if isinstance(value, list):
        return ", ".join(component(part) for part in value) or "none"
    if not isinstance(value, dict) or "name" not in value:
        return "none" if value is None else plain(value)
    short = {key: float(f"{part:.5g}") if isinstance(part, float) else part for key, part in value.items()}
    inside = ", ".join(f"{key}={plain(part)}" for key, part in short.items() if key != "name")
    return f"{value['name']}({inside})" if inside else str(value["name"])


def plain(value: Any) -> str:
    """A value as it is typed in TOML or after --set: texts bare, the rest as JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)


def settings(values: Mapping[str, Any]) -> str:
    """Names with their values: "lr = 0.1, steps = 20"."""
    return ", ".join(f"{name} = {plain(value)}" for name, value in values.items())


def size(count: float | None) -> str:
    """Bytes with three digits: "512 B", "1.25 MiB"."""
    if count is None or count != count:
        return DASH
    power = min(len(UNITS) - 1, int(math.log2(max(count, 1)) // 10))
    number = count / 1024**power
    return f"{number:.3g} {UNITS[power]}" if power and number < 100 else f"{number:.0f} {UNITS[power]}"


def duration(seconds: float | None) -> str:
    """Seconds in words: "20 ms", "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"."""
    if seconds is None or seconds != seconds:
        return DASH
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 60:
        return f"{seconds:.2g} s"
    whole, units = round(seconds), ["s"]
    for unit, count in (("min", 60), ("h", 60), ("d", 24)):
        if whole < count:
            break
        rest = whole % count
        whole, units = whole // count, [unit, f"{rest} {units[0]}" if rest else ""]
    return f"{whole} {' '.join(units)}".strip()
