"""Training curves as SVG: drawn here, so that pages need no chart library."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 420, 190, 58, 28, 12
_PANELS = {
    "Loss": ("loss", "label_loss", "rationale_loss"),
    "Validation": ("accuracy", "macro_f1"),
    "Gradient norm": ("grad_norm", "gradient_norm"),
}
Series = dict[str, list[tuple[float, float]]]


def panels(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """A title and a chart for each group of figures the history has."""
    found = []
    for title, names in _PANELS.items():
        series = _series(history, names)
        if any(len(points) > 1 for points in series.values()):
            found.append((title, chart(title, series)))
    return found


def _series(history: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Series:
    found: Series = {}
    for row in history:
        for key, value in row.items():
            plain = key.removeprefix("eval_").removeprefix("validation_")
            number = isinstance(value, int | float) and math.isfinite(value)
            if plain in names and number and "step" in row:
                found.setdefault(key.replace("_", " "), []).append((float(row["step"]), value))
    return found


def chart(title: str, series: Series) -> Markup:
    """Lines over steps; colours come from the style sheet by class."""
    points = [point for line in series.values() for point in line]
    (x0, x1), (y0, y1) = _span(p[0] for p in points), _span(p[1] for p in points)

    def place(point: tuple[float, float]) -> str:
        x = _LEFT + (point[0] - x0) / (x1 - x0) * (_WIDTH - _LEFT - 8)
        y = _TOP + (y1 - point[1]) / (y1 - y0) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    lines = "".join(
        f'<polyline class="s{i % 6}" points="{" ".join(map(place, line))}"><title>'
        f"{escape(name)}</title></polyline>"
        for i, (name, line) in enumerate(series.items())
    )
    floor = _HEIGHT - _BOTTOM
    axes = (
        f'<path class="axis" d="M{_LEFT},{_TOP}V{floor}H{_WIDTH - 8}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" class="end">{y1:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{floor}" class="end">{y0:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">step {x0:.0f}</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 8}" class="end">{x1:.0f}</text>'
    )
    keys = "".join(
        f'<li><span class="key s{i % 6}"></span>{escape(name)}: {line[-1][1]:.4g}</li>'
        for i, (name, line) in enumerate(series.items())
    )
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)} over steps">'
        f'{axes}{lines}</svg><ul class="keys">{keys}</ul>'
    )


def _span(values: Any) -> tuple[float, float]:
    known = list(values)
    low, high = min(known), max(known)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
