"""Claude through the Anthropic Messages API, one request an answer."""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import Any

import anthropic
import httpx2

from common.config.teacher import ClaudeTeacher
from common.errors import TeacherError, TeacherRejected
from common.records import Example, TeacherAnswer, Unanswered
from teacher.backends.chat import ChatForm, terms_flag
from teacher.backends.failures import failure_of
from teacher.base import Go, Question, Reply, Unavailable, at_once
from teacher.parsing import Stop
from teacher.prices import Price, Tokens, price_of
from teacher.prompts import BoundPrompt

ADDRESS = "https://api.anthropic.com"
# Pinned, because the version is part of what was asked: an SDK update must not change an answer.
API_VERSION = "2026-10-21"
# Below this length of the common prefix the service caches nothing (Haiku 4.5: 4,096 tokens).
CACHED_PREFIX_TOKENS = 4096
_STOPS: dict[str, Stop] = {
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "refusal": "refused",
}
_CURES = {
    401: "set ANTHROPIC_API_KEY to a valid key.",
    402: "the account has no credit left; add some, then resume the job.",
    403: "the key may not use this model; ask for access or take another key.",
    404: "check teacher.model and ANTHROPIC_BASE_URL.",
}


class _Leaving:
    """The moment a request that the SDK has built goes out: `go` first, then the time runs."""

    def __init__(self, go: Go, limit: float):
        self._go = go
        self._limit = limit
        self.clock = asyncio.timeout(None)
        self.at = 0.0
        self.fault: BaseException | None = None

    async def __call__(self) -> None:
        try:
            await self._go()
        except BaseException as error:
            self.fault = error  # the SDK would make a failed connection of it
            raise
        self.at = time.perf_counter()
        self.clock.reschedule(asyncio.get_running_loop().time() + self._limit)


_leaving: ContextVar[_Leaving | None] = ContextVar("leaving", default=None)


class _HttpClient(anthropic.DefaultAioHttpClient):
    """The SDK's client on aiohttp; a built request waits here until it may leave."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        leaving = _leaving.get()
        if leaving:
            await leaving()
        return await super().send(request, **options)


class Claude:
    """
    A Claude model with one prompt. `ask` is live whatever the mode; batches: teacher/batches.py.

    Schema-constrained output, thinking off unless configured, no sampling parameters (API
    version 2026-10-21 refuses them, so samples are further calls of the same prompt). The
    client belongs to the event loop it is first used in; `close` it there. A row costs 0.8 ms of
    CPU with the SDK's aiohttp transport and raw responses, 1.4 ms without (benchmarks/
    teacher_clients.py).
    """

    provider = "claude"
    paid = True
    remote = True

    def __init__(
        self, config: ClaudeTeacher, bound: BoundPrompt, api_key: str, base_url: str = ADDRESS
    ):
        self.name = config.name or config.model
        self.model = config.model
        self.samples = config.samples
        self.terms = terms_flag(config.model)
        self.price = price_of(config.model)
        self._config = config
        fixed, sampling = request_shape(config, bound)
        self._form = ChatForm(bound, fixed, sampling, self._most_usd)
        self.client = open_client(api_key, base_url, config.pace.timeout_seconds)

    def question(self, example: Example, sample: int) -> Question:
        """What would be asked of this example."""
        return self._form.question(example, sample, self._config.max_output_tokens)

    def repair(self, question: Question, reply: Reply, fault: Unanswered) -> Question | None:
        """The conversation continued with what was wrong, always live; None after a refusal."""
        second = self._form.repair(question, text_of(reply.body)[0], fault)
        if second is None or self._config.mode == "live":
            return second
        return replace(second, most_usd=second.most_usd / self.price.batch_factor)

    async def ask(self, question: Question, go: Go = at_once) -> Reply:
        """
        Send one request. Raises RateLimited, Unavailable, RowRejected or TeacherRejected.

        The time-out is for the whole exchange: the transport's own ends only silent ones.
        """
        leaving = _Leaving(go, self._config.pace.timeout_seconds)
        token = _leaving.set(leaving)
        try:
            async with leaving.clock:
                raw = await self.client.messages.with_raw_response.create(**question.payload)
            body = json.loads(raw.http_response.content)
        except (anthropic.AnthropicError, TimeoutError, ValueError) as error:
            raise leaving.fault or claude_failure(error) from error
        finally:
            _leaving.reset(token)
        return reply_of(body, self.price, seconds=time.perf_counter() - leaving.at)

    def read(self, question: Question, reply: Reply) -> TeacherAnswer | Unanswered:
        """Validate a reply; stop reason and refusals first."""
        return self._form.read(question, reply, self.name, text_of(reply.body))

    async def close(self) -> None:
        """Release connections."""
        await self.client.close()

    def _most_usd(self, prompt: int, output: int) -> float:
        # a prompt-cache write is the dearest a prompt token can be
        tokens = Tokens(cache_write=prompt, output=output)
        return self.price.usd(tokens, batch=self._config.mode == "batch")


def request_shape(
    config: ClaudeTeacher, bound: BoundPrompt
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The constant part of the request, and what of it can change an answer."""
    output: dict[str, Any] = {"format": {"type": "json_schema", "schema": bound.schema}}
    if config.effort:
        output["effort"] = config.effort
    # Always said: the current models think by default, at the price of output tokens.
    thinking = {"type": "adaptive" if config.thinking else "disabled"}
    fixed = {
        "model": config.model,
        "max_tokens": config.max_output_tokens,
        "system": _system_of(bound),
        "thinking": thinking,
        "output_config": output,
    }
    sampling = {
        "provider": "anthropic",
        "api_version": API_VERSION,
        "model": config.model,
        "max_tokens": config.max_output_tokens,
        "thinking": thinking,
        "effort": config.effort,
    }
    return fixed, sampling


def _system_of(bound: BoundPrompt) -> str | list[dict[str, Any]]:
    """The system text, marked for prompt caching where it is long enough to be cached at all."""
    if len(bound.system) < 4 * CACHED_PREFIX_TOKENS:
        return bound.system
    return [{"type": "text", "text": bound.system, "cache_control": {"type": "ephemeral"}}]


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms, a client without them 1 ms: once a process."""
    return httpx2.create_ssl_context()


def open_client(api_key: str, base_url: str, timeout_seconds: float) -> anthropic.AsyncAnthropic:
    """The SDK's client: no retries of its own, pinned API version, aiohttp underneath."""
    if not api_key:
        raise TeacherRejected("Claude needs an API key: set ANTHROPIC_API_KEY.")
    return anthropic.AsyncAnthropic(
        api_key=api_key,
        base_url=base_url,
        max_retries=0,
        timeout=timeout_seconds,
        default_headers={"anthropic-version": API_VERSION},
        open_telemetry={"traces": False},  # 5 % of the request's CPU, and nobody collects them
        http_client=_HttpClient(verify=_tls()),
    )


def reply_of(body: Any, price: Price, seconds: float = 0.0, batch: bool = False) -> Reply:
    """A Messages object as a Reply. Raises Unavailable for what is none: a proxy's page, say."""
    if not isinstance(body, dict) or not isinstance(body.get("usage"), dict):
        raise Unavailable("Claude's reply is no Messages object.")
    return Reply(
        body=body,
        usage=price.usage(tokens_of(body["usage"]), batch),
        model=str(body.get("model") or price.model),
        received_at=time.time(),
        seconds=seconds,
    )


def tokens_of(usage: Mapping[str, Any]) -> Tokens:
    """Token counts of a reply; `input_tokens` excludes the prompt cache already."""
    written = usage.get("cache_creation") or {}
    long_lived = int(written.get("ephemeral_1h_input_tokens") or 0)
    return Tokens(
        input=int(usage.get("input_tokens") or 0),
        output=int(usage.get("output_tokens") or 0),
        cache_read=int(usage.get("cache_read_input_tokens") or 0),
        cache_write=int(usage.get("cache_creation_input_tokens") or 0) - long_lived,
        cache_write_1h=long_lived,
    )


def text_of(body: Mapping[str, Any]) -> tuple[str, Stop]:
    """The text blocks joined (a thinking block may come first), and how the reply ended."""
    blocks = body.get("content") or []
    texts = [block.get("text") or "" for block in blocks if block.get("type") == "text"]
    return "".join(texts), _STOPS.get(str(body.get("stop_reason")), "complete")


def claude_failure(error: Exception) -> TeacherError:
    """What an exception of the SDK means for us."""
    if isinstance(error, anthropic.APIStatusError):
        said = _message_of(error)
        if "credit balance" in said:  # a 400, though no row is at fault
            return TeacherRejected(f"Claude answered {error.status_code}: {said} {_CURES[402]}")
        headers = error.response.headers
        return failure_of("Claude", error.status_code, said, headers, _CURES)
    if isinstance(error, TimeoutError | anthropic.APITimeoutError):
        return Unavailable("Claude did not answer in time.")
    if isinstance(error, anthropic.APIConnectionError):
        return Unavailable(f"the connection to Claude failed: {error.__cause__ or error}.")
    return Unavailable(f"Claude's reply could not be read: {error}.")


def _message_of(error: anthropic.APIStatusError) -> str:
    body = error.body
    inner = body.get("error") if isinstance(body, dict) else None
    said = inner.get("message") if isinstance(inner, dict) else None
    return str(said or error.message)
