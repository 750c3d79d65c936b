"""Pages of jobs and of runs: newest first, by a cursor that stays right while new ones arrive."""

import base64
import binascii
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from workers.api.problems import Problem
from workers.job_records import Job
from workers.jobs import Jobs

if TYPE_CHECKING:
    import redis

_SCAN = 50
_MOST_SCANNED = 2000

Position = tuple[float, str]


def encode_cursor(position: Position) -> str:
    """An opaque word for a place in the list: time and id of the last item shown."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> Position | None:
    """Raises Problem 422 for anything `encode_cursor` did not make."""
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        when, name = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        if not (isinstance(when, float | int) and math.isfinite(when) and isinstance(name, str)):
            raise ValueError(cursor)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise Problem(422, "the cursor is not one of ours; start without.") from None
    return float(when), name


def page_of_jobs(
    client: "redis.Redis",
    jobs: Jobs,
    limit: int,
    after: Position | None,
    wanted: Callable[[Job], bool],
) -> tuple[list[Job], Position | None]:
    """Up to `limit` wanted jobs behind `after`, and the position to go on from."""
    found: list[tuple[Position, Job]] = []
    scanned = 0
    while len(found) <= limit and scanned < _MOST_SCANNED:
        # mostly all are wanted; where they are not, look far at once
        places = _places(client, after, _SCAN if scanned else min(_SCAN, limit + 1))
        scanned += len(places)
        if not places:
            break
        records = {job.id: job for job in jobs.many([name for _, name in places])}
        found += [(p, records[p[1]]) for p in places if p[1] in records and wanted(records[p[1]])]
        after = places[-1]
    else:
        if len(found) <= limit:  # the scan ended early: the client may go on from where it is
            return [job for _, job in found], after
    shown = found[:limit]
    return [job for _, job in shown], shown[-1][0] if len(found) > limit else None


def _places(client: "redis.Redis", after: Position | None, most_at_once: int) -> list[Position]:
    """The next entries of the index behind `after`; entries of one time are ordered by id."""
    most = "+inf" if after is None else repr(after[0])
    start, found = 0, list[Position]()
    while not found:
        raw = cast(
            list[tuple[bytes, float]],
            client.zrevrangebyscore(
                "finstill:jobs", most, "-inf", start=start, num=most_at_once, withscores=True
            ),
        )
        if not raw:
            break
        places = [(float(score), name.decode()) for name, score in raw]
        found = [place for place in places if after is None or place < after]
        start += most_at_once
    return found


def page_of(
    items: list[Any], position: Callable[[Any], Position], limit: int, after: Position | None
) -> tuple[list[Any], Position | None]:
    """The same for a list in memory, newest first."""
    rest = [item for item in items if after is None or position(item) < after]
    shown = rest[:limit]
    return shown, position(shown[-1]) if len(rest) > limit else None
