"""Learning curves as SVG inside a page: they take the page's colors, and are plain text until they are looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
COLORS = 6  # classes of the style sheet, c0 to c5


@dataclass(frozen=True)
class Curve:
    """One curve: pixel coordinates of its points, and of its band's outline, as SVG writes them."""

    label: str
    points: str
    band: str
    color: int
    dashed: bool


@dataclass(frozen=True)
class Drawing:
    """A chart, laid out: its lines, and (pixel, text) of the ticks of both axes."""

    lines: tuple[Curve, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]


def chart(curves: Sequence[tuple[str, pd.DataFrame]]) -> Drawing:
    """Lay out curves of steps against accuracies (`ddbench.report.frame.curve_of`), fractions in, percent on the axis."""
    last = max(float(curve["step"].max()) for _, curve in curves) or 1.0
    ends = [curve[name].fillna(curve["top1"]) for _, curve in curves for name in ("ci_low", "ci_high")]
    low, high = max(0.0, min(end.min() for end in ends)), min(1.0, max(end.max() for end in ends))
    step = next(size for size in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / size <= 6)
    first, count = int(low // step), 1
    while (first + count) * step < high - 1e-9:
        count += 1
    bottom, top = first * step, (first + count) * step

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / last

    def y(value: float) -> float:
        inside = min(max(value, bottom), top)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (inside - bottom) / (top - bottom)

    lines = []
    for place, (label, curve) in enumerate(curves):
        points = [(x(row.step), y(row.top1)) for row in curve.itertuples()]
        known = curve[curve["ci_low"].notna()]
        upper = [(x(row.step), y(row.ci_high)) for row in known.itertuples()]
        lower = [(x(row.step), y(row.ci_low)) for row in known.itertuples()]
        band = _points([*upper, *reversed(lower)]) if len(upper) > 1 else ""
        lines.append(Curve(label, _points(points), band, place % COLORS, place >= COLORS))
    return Drawing(
        tuple(lines),
        tuple((round(x(last * part / 4), 1), f"{last * part / 4:,.0f}") for part in range(5)),
        tuple((round(y((first + i) * step), 1), f"{100 * (first + i) * step:.0f}") for i in range(count + 1)),
    )


def whisker(low: float | None, mean: float | None, high: float | None) -> tuple[float, float, float] | None:
    """Ends and middle of a small interval bar on 0 to 100, clipped; None where there is no accuracy."""
    if mean is None:
        return None
    ends = [100 * min(max(mean if end is None else end, 0.0), 1.0) for end in (low, mean, high)]
    return round(ends[0], 1), round(ends[1], 1), round(ends[2], 1)


def _points(found: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in found)
