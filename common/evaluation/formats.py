"""Numbers as people read them: 49.2M parameters, 187 MB, $0.42."""

from math import floor, log10

from common.records import Interval

NOTHING = "\u2013"


def metric(interval: Interval, digits: int = 3) -> str:
    """ "0.863 [0.843, 0.882]"."""
    value, low, high = (f"{x:.{digits}f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def count(number: float | None) -> str:
    """Parameters or tokens: "260k", "49.2M", "8.03B"."""
    if number is None:
        return NOTHING
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def size(number: float | None) -> str:
    """Bytes: "187 MB"."""
    if number is None:
        return NOTHING
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float | None) -> str:
    """ "3.1 s", "12 min 40 s", "2 h 05 min"."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def rate(texts: float | None, seconds: float | None) -> str:
    """Texts per second."""
    if not texts or not seconds:
        return NOTHING
    speed = texts / seconds
    return f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s"


def money(dollars: float | None) -> str:
    """Dollars, small ones to two digits that count: "$0.0031", "$1.85"."""
    if dollars is None:
        return NOTHING
    if dollars == 0:
        return "$0"
    if dollars >= 0.995:
        return f"${dollars:,.2f}"
    if dollars < 1e-6:
        return f"${dollars:.1e}"
    return f"${dollars:.{1 - floor(log10(dollars))}f}"


def share(number: float) -> str:
    """ "0.4 %"; "0" for none."""
    return "0" if number == 0 else f"{100 * number:.2g}\u202f%"


def tick_money(dollars: float) -> str:
    """Powers of ten for an axis: "$0.001", "$1", "$10"."""
    return f"${dollars:,.0f}" if dollars >= 1 else f"${dollars:.{-floor(log10(dollars))}f}"
