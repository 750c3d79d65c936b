"""From a service's HTTP status to the one of our errors that says what to do next."""

from collections.abc import Mapping

from common.errors import TeacherError, TeacherRejected
from teacher.base import RateLimited, RowRejected, Unavailable

_SLOW_DOWN = {429, 503, 529}
_AGAIN = {408, 409, 425}
_THIS_ROW = {400, 413, 422}


def failure_of(
    service: str,
    status: int,
    said: str,
    headers: Mapping[str, str],
    cures: Mapping[int, str],
) -> TeacherError:
    """
    RateLimited for 429, 503 and 529; RowRejected for 400, 413 and 422; TeacherRejected with
    its cure for every other 4xx; Unavailable for the rest.
    """
    what = f"{service} answered {status}: {' '.join(said.split())[:200]}".rstrip(": ")
    after = retry_after_seconds(headers)
    if status in _SLOW_DOWN:
        return RateLimited(what, after)
    if status in _AGAIN or status >= 500 or status < 400:
        return Unavailable(what, after)
    if status in _THIS_ROW:
        return RowRejected(what)
    cure = cures.get(status, "look the status up in the service's documentation.")
    return TeacherRejected(f"{what}; {cure}")


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """
    What `retry-after-ms` or `retry-after` ask for; None where neither is a number of seconds.

    The date form of the header is not used by any service asked here.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None
