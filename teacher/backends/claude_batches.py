"""Anthropic Message Batches: half the price, answers within a day."""

import datetime
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Literal

import anthropic
import httpx2

from teacher.backends.claude import Claude, claude_failure, reply_of
from teacher.base import Unavailable
from teacher.batch_job import BatchJob, BatchResult, BatchRules, BatchState
from teacher.batch_ledger import BatchLedger
from teacher.prices import Price
from teacher.services import LabellingServices

# What a request is told once and for all; everything else (overload, time-out) may pass.
_FOR_GOOD = {
    "invalid_request_error",
    "not_found_error",
    "permission_error",
    "authentication_error",
    "billing_error",
    "request_too_large",
}
_UPLOAD_SECONDS = 600.0


class ClaudeBatches:
    """
    The service side of teacher/batches.py; question keys are the `custom_id`s.

    Raises RateLimited, Unavailable and TeacherRejected as a live request does.
    """

    def __init__(self, client: anthropic.AsyncAnthropic, price: Price):
        self._client = client
        self._price = price

    async def create(self, requests: Mapping[str, Mapping[str, Any]]) -> str:
        """Hand in a batch; returns its id."""
        body: Any = [{"custom_id": key, "params": params} for key, params in requests.items()]
        try:
            batch = await self._client.messages.batches.create(
                requests=body, timeout=_UPLOAD_SECONDS
            )
        except anthropic.AnthropicError as error:
            raise claude_failure(error) from error
        return batch.id

    async def state(self, batch_id: str) -> BatchState:
        """How far a batch is."""
        try:
            return _state_of(await self._client.messages.batches.retrieve(batch_id))
        except anthropic.AnthropicError as error:
            raise claude_failure(error) from error

    async def recent(self, since: float) -> AsyncIterator[BatchState]:
        """The account's batches created since then, newest first."""
        try:
            async for batch in self._client.messages.batches.list(limit=100):
                state = _state_of(batch)
                if state.created < since:
                    return
                yield state
        except anthropic.AnthropicError as error:
            raise claude_failure(error) from error

    async def results(self, batch_id: str) -> AsyncGenerator[BatchResult, None]:
        """
        The results line by line, never all in memory.

        A stream that breaks off raises Unavailable; reading it again from the start is free.
        """
        stream = self._client.messages.batches.with_streaming_response.results(batch_id)
        try:
            async with stream as response:
                async for line in response.iter_lines():
                    if line.strip():
                        yield self._result(line)
        except anthropic.AnthropicError as error:
            raise claude_failure(error) from error
        except (httpx2.HTTPError, ValueError) as error:
            raise Unavailable(f"the results of batch {batch_id} broke off: {error}.") from error

    async def cancel(self, batch_id: str) -> None:
        """Stop what has not been worked on."""
        try:
            await self._client.messages.batches.cancel(batch_id)
        except anthropic.AnthropicError as error:
            raise claude_failure(error) from error

    def _result(self, line: str) -> BatchResult:
        row = json.loads(line)
        key, result = str(row["custom_id"]), row["result"]
        kind: Literal["succeeded", "errored", "canceled", "expired"] = result["type"]
        if kind == "succeeded":
            reply = reply_of(result["message"], self._price, batch=True)
            return BatchResult(key, kind, reply=reply)
        error = (result.get("error") or {}).get("error") or {}
        message = f"{error.get('type', '')}: {error.get('message', '')}" if error else ""
        return BatchResult(key, kind, message=message, again=error.get("type") not in _FOR_GOOD)


def batch_job(
    teacher: Claude,
    services: LabellingServices,
    ledger: BatchLedger,
    job_id: str,
    rules: BatchRules | None = None,
) -> BatchJob:
    """A job's batches with the teacher's service and the surroundings of live labelling."""
    return BatchJob(
        job_id=job_id,
        teacher=teacher.name,
        provider=teacher.provider,
        terms=teacher.terms,
        service=ClaudeBatches(teacher.client, teacher.price),
        cache=services.cache,
        purse=services.purse,
        ledger=ledger,
        count=services.count,
        rules=rules or BatchRules(),
    )


def _state_of(batch: Any) -> BatchState:
    counts = batch.request_counts
    created: datetime.datetime = batch.created_at
    return BatchState(
        id=batch.id,
        ended=batch.processing_status == "ended",
        requests=counts.processing
        + counts.succeeded
        + counts.errored
        + counts.canceled
        + counts.expired,
        created=created.timestamp(),
    )
