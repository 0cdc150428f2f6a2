"""How people read budgets, accuracies and their intervals: percent and points with one decimal, a dash for the unknown.

What is not known is None or NaN; accuracies and differences come in as fractions.
"""

from collections.abc import Callable

from ddbench.report.renderers import DASH


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
