"""
How fast all workers together may ask one service: a pure function of state, report and time.

Concurrency: slow start (x 1.5 per round trip), then additive increase towards the last level
that worked, x 0.75 on a throttled request at most once per round trip (Jacobson 1988; the search
below the last ceiling is BIC's, Xu, Harfoush & Rhee 2004). Refusals that go on at half the level
where they began are not of our making (a service overloaded by others refuses some of everybody's
requests): they are put up with for a while, for at any lower level they would come as well.
Rates: token buckets of five seconds.
The store around it (teacher/gate.py) makes one step at a time of it, in Redis or in memory.
"""

import math

from common.config.teacher import Pace
from teacher.pace_state import (
    FIRST_REGAIN_SECONDS,
    Grant,
    Member,
    PaceState,
    Report,
)

BACK_OFF = 0.75
MEMBER_SECONDS = 10.0
BURST_SECONDS = 5.0
PROBE_SECONDS = (5.0, 600.0)
PAUSE_WITHOUT_HINT = 0.2
LONGEST_REGAIN_SECONDS = 15.0
PUT_UP_WITH_SHARE = 0.25
PUT_UP_SECONDS = 5.0
EARLY_SLOTS = 16  # before the first reply: others start at the same moment, and sending takes time
_REMEMBERED = 40  # requests over which the share of refusals is taken


def advance(state: PaceState, report: Report, pace: Pace, now: float) -> Grant:
    """Take in one worker's report and say what it may do. Changes `state`."""
    _forget_silent(state, now)
    _note_round_trips(state, report)
    _note_refusals(state, report)
    if report.throttled and _is_patient(state, report, now):
        _speed_up(state, report, pace, now)
    elif report.throttled:
        _slow_down(state, report, now)
    elif _queues(state, pace) and now - state.cut_at > state.round_trip:
        _cut(state, BACK_OFF * state.limit, now)
    elif report.finished and report.waiting:
        _speed_up(state, report, pace, now)
    if report.leaving:
        state.members.pop(report.owner, None)
        _fill(state, report, pace, now)
        return Grant(0)
    early = report.owner not in state.members and not state.round_trip
    slots = _share(state, report, now, EARLY_SLOTS if early else math.inf)
    tickets = _issue(state, report, pace, now)
    ceiling = min(pace.max_concurrency, state.ceiling or pace.max_concurrency)
    growing = state.limit < ceiling - 0.5
    wanted = min(report.in_flight + report.waiting, math.floor(state.limit))
    patient = now < state.patient_until
    pause = max(0.0, state.paused_until - now)
    hungry = slots < wanted
    return Grant(slots, tickets, pause, growing, hungry, state.limit, patient, early and hungry)


def _forget_silent(state: PaceState, now: float) -> None:
    silent = [o for o, m in state.members.items() if now - m.seen > MEMBER_SECONDS]
    for owner in silent:
        del state.members[owner]


def _note_round_trips(state: PaceState, report: Report) -> None:
    if not report.finished:
        return
    mean = report.seconds / report.finished
    weight = min(0.5, report.finished / (2 * state.limit))
    state.round_trip += (mean - state.round_trip) * (weight if state.round_trip else 1.0)
    # The fastest is let go slowly: a service that got slower for good is no longer queueing.
    state.fastest = min(mean, state.fastest * (1 + 0.01 * weight)) if state.fastest else mean


def _note_refusals(state: PaceState, report: Report) -> None:
    state.throttled += report.throttled
    requests = report.finished + report.throttled
    if requests:
        weight = min(1.0, requests / _REMEMBERED)
        state.refusals += (report.throttled / requests - state.refusals) * weight


def _is_patient(state: PaceState, report: Report, now: float) -> bool:
    """Whether refusals are let pass: a small share, no longer pause asked for, no help in less."""
    if report.retry_after and report.retry_after > PAUSE_WITHOUT_HINT:
        return False
    if state.refusals > PUT_UP_WITH_SHARE:
        if now < state.patient_until:  # more requests were refused more: it was our load after all
            state.began_at = 0.0
        state.patient_until = 0.0
    elif now >= state.patient_until and 1 < state.limit <= state.began_at / 2:
        state.patient_until, state.ceiling = now + PUT_UP_SECONDS, None
    return now < state.patient_until


def _queues(state: PaceState, pace: Pace) -> bool:
    factor = pace.slow_factor
    return factor is not None and state.round_trip > factor * state.fastest > 0


def _slow_down(state: PaceState, report: Report, now: float) -> None:
    pause = PAUSE_WITHOUT_HINT if report.retry_after is None else report.retry_after
    state.paused_until = max(state.paused_until, now + pause)
    if now - state.cut_at <= max(state.round_trip, 0.05):
        return
    if state.limit >= state.began_at or now - state.cut_at > PUT_UP_SECONDS / 2:
        state.began_at = state.limit
    _note_level(state)
    # of the others we know what they had at their last report, and what they may have had since
    accepted = report.in_flight + sum(
        member.held if member.waiting else member.in_flight
        for owner, member in state.members.items()
        if owner != report.owner
    )
    lower = BACK_OFF * state.limit
    if state.ramping:  # the overshoot may be larger: what was taken in tells the level
        lower = max(state.limit / 2, min(lower, accepted))
    _cut(state, lower, now)
    state.ceiling = max(state.limit, float(accepted))
    if state.probing:  # it was the step above the ceiling that failed
        state.probe_wait = min(PROBE_SECONDS[1], 2 * state.probe_wait)
    state.probing = False
    state.probe_at = now + state.probe_wait


def _note_level(state: PaceState) -> None:
    """A level that was not regained is half as good a memory."""
    if state.regaining:
        state.level /= 2
        state.regain_wait = min(LONGEST_REGAIN_SECONDS, 2 * state.regain_wait)
    else:
        state.level = max(state.level, state.limit)
    state.regaining = False


def _cut(state: PaceState, lower: float, now: float) -> None:
    state.limit = max(1.0, lower)
    state.ramping = False
    state.cut_at = now


def _speed_up(state: PaceState, report: Report, pace: Pace, now: float) -> None:
    if state.limit < state.level / 2 and now - state.cut_at > state.regain_wait:
        # after a burst of refusals, not below a lasting limit: up again as at the start
        state.ramping = state.regaining = True
        state.ceiling = None
    elif state.limit >= state.level / 2:
        state.regaining, state.regain_wait = False, FIRST_REGAIN_SECONDS
    ceiling = min(pace.max_concurrency, state.ceiling or pace.max_concurrency)
    if state.ramping:
        step = report.finished / (1 if state.regaining else 2)
    else:
        halfway = 0.0 if state.ceiling is None else (ceiling - state.limit) / 2
        step = max(1.0, halfway) * report.finished / state.limit
    state.limit = min(state.limit + step, ceiling)
    if state.ceiling is not None and state.limit >= ceiling - 0.01 and now >= state.probe_at:
        state.ceiling += max(1.0, 0.1 * state.ceiling)
        state.probing = True
        state.probe_wait = max(PROBE_SECONDS[0], state.probe_wait / 2)
        state.probe_at = now + state.probe_wait


def _share(state: PaceState, report: Report, now: float, most: float) -> int:
    """Slots of one worker: what it wants, what others leave, its fair part, `most` at any rate."""
    others = [m for owner, m in state.members.items() if owner != report.owner]
    total = max(1, math.floor(state.limit + 1e-9))
    fair = max(1, total // (1 + sum(m.in_flight + m.waiting > 0 for m in others)))
    starving = any(m.waiting and m.held < fair for m in others)
    wanted = report.in_flight + report.waiting
    slots = max(0, min(wanted, total - sum(m.held for m in others), fair if starving else total))
    slots = int(min(slots, most))
    held = max(slots, report.in_flight)
    state.members[report.owner] = Member(held, report.in_flight, report.waiting, now)
    return slots


def _rates(pace: Pace) -> list[float | None]:
    per_minute = (
        pace.requests_per_minute,
        pace.input_tokens_per_minute,
        pace.output_tokens_per_minute,
    )
    return [limit / 60 if limit else None for limit in per_minute]


def _fill(state: PaceState, report: Report, pace: Pace, now: float) -> list[float | None]:
    """Let the buckets fill up with time and with what came back. Returns the rates per second."""
    rates = _rates(pace)
    full = [math.inf if rate is None else max(1.0, rate * BURST_SECONDS) for rate in rates]
    back = (float(report.unused_tickets), *report.refund)
    if not state.levels:
        state.levels, state.filled_at = [min(most, 1e12) for most in full], now
    passed = max(0.0, now - state.filled_at)
    state.filled_at = now
    state.levels = [
        0.0 if rate is None else min(most, level + rate * passed + more)
        for rate, most, level, more in zip(rates, full, state.levels, back, strict=True)
    ]
    return rates


def _issue(state: PaceState, report: Report, pace: Pace, now: float) -> int | None:
    """
    Tickets for as many waiting requests as the buckets hold.

    A request larger than a bucket passes when the bucket is full, which then stays empty for
    longer: it could never pass otherwise.
    """
    rates = _fill(state, report, pace, now)
    if all(rate is None for rate in rates):
        return None
    need = (1.0, *report.need)
    tickets = report.wanted_tickets
    for rate, level, each in zip(rates, state.levels, need, strict=True):
        if rate is None or each <= 0:
            continue
        fits = math.floor(level / each)
        oversize = each > max(1.0, rate * BURST_SECONDS) and level >= max(1.0, rate * BURST_SECONDS)
        tickets = min(tickets, max(fits, int(oversize)))
    state.levels = [
        level if rate is None else level - tickets * each
        for rate, level, each in zip(rates, state.levels, need, strict=True)
    ]
    return tickets
