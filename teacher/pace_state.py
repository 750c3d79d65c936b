"""What workers tell each other about the pace of one service: report, grant, and shared state."""

import math
from dataclasses import dataclass, field
from typing import Any, Self

from common.config.teacher import Pace

PACE_KEY = "finstill:pace:"  # and the service's name: where Redis keeps its shared state
FIRST_LIMIT = 48
FIRST_PROBE_SECONDS = 15.0
FIRST_REGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Report:
    """
    What one worker saw since its last report.

    `in_flight` and `waiting` are now; `finished`, `throttled`, `seconds` (sum of round trips) and
    `refund` (input and output tokens reserved but not used) since. `wanted_tickets` are the
    waiting requests without a ticket, `need` their mean input and output tokens.
    """

    owner: str
    in_flight: int = 0
    waiting: int = 0
    finished: int = 0
    seconds: float = 0.0
    throttled: int = 0
    retry_after: float | None = None
    wanted_tickets: int = 0
    unused_tickets: int = 0
    refund: tuple[float, float] = (0.0, 0.0)
    need: tuple[float, float] = (0.0, 0.0)
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """
    What one worker may do until its next report.

    Up to `slots` requests in flight; `tickets` further starts (None: no rate limit); nothing new
    for `pause` seconds. `growing`: reporting soon pays, the limit is on its way up.
    `hungry`: others hold what this worker could use. `patient`: single refusals are no reason
    to pause. `more_soon`: a first share, held small so that others get one; ask again at once.
    """

    slots: int
    tickets: int | None = None
    pause: float = 0.0
    growing: bool = False
    hungry: bool = False
    limit: float = 0.0
    patient: bool = False
    more_soon: bool = False


@dataclass(slots=True)
class Member:
    """One worker as last reported; `held` slots count until it reports again or falls silent."""

    held: int
    in_flight: int
    waiting: int
    seen: float


@dataclass(slots=True)
class PaceState:
    """
    What all workers share about one service. Times in seconds of the store's clock.

    `ceiling`: where the service last refused; `level`: the highest limit that once worked and may
    work again; `refusals`: their share among the last requests; `began_at`: the limit at which
    they began.
    """

    limit: float
    ramping: bool = True
    ceiling: float | None = None
    probe_at: float = 0.0
    probe_wait: float = FIRST_PROBE_SECONDS
    probing: bool = False
    cut_at: float = -math.inf
    paused_until: float = 0.0
    round_trip: float = 0.0
    fastest: float = 0.0
    levels: list[float] = field(default_factory=list)
    filled_at: float = 0.0
    throttled: int = 0
    refusals: float = 0.0
    began_at: float = 0.0
    patient_until: float = 0.0
    regaining: bool = False
    level: float = 0.0
    regain_wait: float = FIRST_REGAIN_SECONDS
    members: dict[str, Member] = field(default_factory=dict)

    @classmethod
    def start(cls, pace: Pace) -> Self:
        """At 48 or at what is allowed: one step, one round trip, below the usual 64."""
        return cls(limit=float(min(FIRST_LIMIT, pace.max_concurrency)))

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["cut_at"] = None if self.cut_at == -math.inf else self.cut_at
        values["members"] = {
            owner: [m.held, m.in_flight, m.waiting, m.seen] for owner, m in self.members.items()
        }
        return values

    @classmethod
    def load(cls, values: dict[str, Any]) -> Self:
        """From JSON, also of another version: what this one does not know is left out."""
        known = {name: value for name, value in values.items() if name in cls.__slots__}
        members = {owner: Member(*fields) for owner, fields in known.pop("members", {}).items()}
        cut_at = known.pop("cut_at", None)
        return cls(**known, members=members, cut_at=-math.inf if cut_at is None else cut_at)
