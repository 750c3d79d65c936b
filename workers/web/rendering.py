"""Templates, static files and the policy pages are shown under."""

import time
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from starlette.responses import HTMLResponse

from common import __version__
from workers.display import note
from workers.job_records import StageRecord

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STATIC = {"app.css": "text/css; charset=utf-8", "app.js": "text/javascript; charset=utf-8"}
PAGES = {"Jobs": "/jobs", "Runs": "/runs", "Compare": "/compare", "Try it": "/try",
         "Labels": "/labels", "System": "/system"}  # fmt: skip


def render(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page. Every value is escaped; unknown names are errors."""
    page = environment().get_template(template).render(pages=PAGES, version=__version__, **values)
    return HTMLResponse(page, status, {"Content-Security-Policy": POLICY})


@cache
def static_files() -> dict[str, tuple[bytes, str]]:
    """Name -> content and media type, read once: no path of a request is ever opened."""
    folder = files("workers.web") / "static"
    return {name: ((folder / name).read_bytes(), kind) for name, kind in STATIC.items()}


@cache
def environment() -> Environment:
    """The templates, read once."""
    folder = files("workers.web") / "templates"
    sources = {t.name: t.read_text(encoding="utf-8") for t in folder.iterdir()
               if t.name.endswith(".html")}  # fmt: skip
    found = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.filters.update(age=age, count=count, money=money, percent=percent, note=note, size=size,
                         figure=figure, rate=rate)  # fmt: skip
    found.globals["stamp"] = {
        name: sha256(content).hexdigest()[:12] for name, (content, _) in static_files().items()
    }
    return found


def age(when: float | None, now: float | None = None) -> str:
    """ "5 min ago"."""
    if not when:
        return ""
    seconds = max(0, (now or time.time()) - when)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def count(value: float) -> str:
    """ "3,634"."""
    return f"{value:,.0f}"


def rate(stage: StageRecord) -> str:
    """Rows or steps a second since the stage began."""
    speed = stage.per_second
    return "" if speed is None else f"{speed:.1f} {stage.unit or 'items'}/s"


def money(value: float) -> str:
    """Dollars, finer where little."""
    return f"${value:,.4f}" if 0 < abs(value) < 1 else f"${value:,.2f}"


def percent(share: float | None) -> str:
    """ "86.3 %"."""
    return "-" if share is None else f"{100 * share:.1f} %"


def size(value: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def figure(value: Any) -> str:
    """Any figure, short."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
