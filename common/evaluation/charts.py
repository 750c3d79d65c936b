"""
SVG by hand: axes, lines, dots with intervals.

Colours are CSS classes (s0, s1 … for systems), so that one drawing serves light, dark and print;
text is real text in the page's own typeface. Everything that comes from outside is escaped.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, cos, floor, log10, pi, sin

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 44
COLOURS = 8


def element(name: str, *children: object, **attributes: object) -> Markup:
    """An SVG element; `class_` becomes class, `stroke_width` becomes stroke-width."""
    pairs = (
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _plain(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(pairs), inside)


def _plain(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` onto pixels from `start` to `end`; `log` for powers of ten."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high = (log10(self.low), log10(self.high)) if self.log else (self.low, self.high)
        here = log10(value) if self.log else value
        return self.start + (here - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the axis."""
        if self.log:
            first, last = ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9)
            if last > first:
                every = ceil((last - first + 1) / 6)
                return [10.0**power for power in range(first, last + 1, every)]
            # one power of ten, or none
            digits = [m * 10.0**p for p in range(last - 1, first + 1) for m in (1, 2, 5)]
            if len(inside := [v for v in digits if self.low <= v <= self.high]) > 1:
                return inside
        step = _step((self.high - self.low) / about)
        first = ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, floor(self.high / step + 1e-9) + 1)]


def _step(rough: float) -> float:
    if rough <= 0:
        return 1.0
    power = 10.0 ** floor(log10(rough))
    return power * next((m for m in (1, 2, 2.5, 5) if rough <= m * power * 1.0001), 10)


def padded(values: Iterable[float], share: float = 0.06) -> tuple[float, float]:
    """Least and greatest value with a little air around them."""
    found = list(values)
    low, high = min(found), max(found)
    air = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - air, high + air


@dataclass(frozen=True)
class Frame:
    """The two axes of a drawing."""

    x: Axis
    y: Axis

    @classmethod
    def of(cls, x: tuple[float, float], y: tuple[float, float], *, log_x: bool = False) -> "Frame":
        """Axes over these ranges that fill the standard drawing."""
        return cls(
            Axis(*x, LEFT, WIDTH - RIGHT, log_x),
            Axis(*y, HEIGHT - BOTTOM, TOP),
        )


def drawing(
    title: str,
    frame: Frame,
    labels: tuple[str, str],
    *marks: Markup,
    x_format: Callable[[float], str] = "{:g}".format,
    y_format: Callable[[float], str] = "{:g}".format,
    x_ticks: Sequence[float] | None = None,
) -> Markup:
    """A whole chart; the formats write the ticks, `x_ticks` sets them."""
    parts = [
        element("title", title),
        *_grid(frame, x_format, y_format, x_ticks),
        _axis_title(labels[0], (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8),
        _axis_title(labels[1], 13, (TOP + HEIGHT - BOTTOM) / 2, turned=True),
        *marks,
    ]
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart")


def _grid(
    frame: Frame,
    x_format: Callable[[float], str],
    y_format: Callable[[float], str],
    x_ticks: Sequence[float] | None,
) -> list[Markup]:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in frame.y.ticks():
        y = frame.y.at(value)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        text = y_format(value)
        parts.append(element("text", text, x=LEFT - 7, y=y + 4, text_anchor="end"))
    for value in frame.x.ticks() if x_ticks is None else x_ticks:
        x = frame.x.at(value)
        parts.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        text = x_format(value)
        parts.append(element("text", text, x=x, y=bottom + 17, text_anchor="middle"))
    parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis"))
    return parts


def _axis_title(text: str, x: float, y: float, *, turned: bool = False) -> Markup:
    turn = f"rotate(-90 {x:.1f} {y:.1f})" if turned else None
    return element(
        "text", text, x=x, y=y, text_anchor="middle", transform=turn, class_="axis-title"
    )


def line(
    frame: Frame, points: Sequence[tuple[float, float]], colour: int, style: str = ""
) -> Markup:
    """A line through the points, in a system's colour; `style` adds a class (faint, dashed)."""
    path = " ".join(
        f"{'M' if i == 0 else 'L'}{frame.x.at(x):.1f} {frame.y.at(y):.1f}"
        for i, (x, y) in enumerate(points)
    )
    return element("path", d=path, class_=f"line s{colour % COLOURS} {style}".strip())


def marker(x: float, y: float, colour: int, size: float = 4.5, tip: str = "") -> Markup:
    """A system's sign: its colour and, for those who see none, its shape."""
    shape = SHAPES[(colour + colour // COLOURS) % len(SHAPES)]
    path = "M" + " L".join(f"{x + dx * size:.1f} {y + dy * size:.1f}" for dx, dy in shape) + " Z"
    inside = [element("title", tip)] if tip else []
    return element("path", *inside, d=path, class_=f"dot s{colour % COLOURS}")


def _polygon(corners: int, turn: float) -> list[tuple[float, float]]:
    angles = [turn + 2 * pi * i / corners for i in range(corners)]
    return [(cos(a), sin(a)) for a in angles]


def _plus(arm: float = 1.1, half: float = 0.42) -> list[tuple[float, float]]:
    quarter = [(-arm, -half), (-half, -half), (-half, -arm), (half, -arm)]
    corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners


SHAPES = (
    _polygon(24, 0.0),
    [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    [(0, -1.15), (1.1, 0.8), (-1.1, 0.8)],
    [(0, -1.25), (1.1, 0), (0, 1.25), (-1.1, 0)],
    [(0, 1.15), (1.1, -0.8), (-1.1, -0.8)],
    _plus(),
    _polygon(6, 0.0),
    _polygon(5, -1.5708),
)


def whisker(x: float, low: float, high: float, colour: int) -> Markup:
    """A vertical interval, in pixels."""
    return element("line", x1=x, x2=x, y1=low, y2=high, class_=f"whisker s{colour % COLOURS}")
