"""
A double of the Anthropic Messages, Anthropic Message Batches and vLLM chat services.

It is no model and no server of theirs: it speaks their wire format over real HTTP on 127.0.0.1 and
refuses what they refuse, so that a request which passes here has the shape the services want.
Every reply names itself a double (`x-double` header). Answers are a pure function of the text.
"""

import asyncio
import hashlib
import itertools
import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
ANTHROPIC_FIELDS = {
    *("model", "max_tokens", "messages", "system", "thinking", "output_config", "metadata"),
    *("stop_sequences", "tools", "tool_choice", "cache_control", "service_tier", "stream"),
}
UNSUPPORTED = {"minLength", "maxLength", "minimum", "maximum", "pattern", "maxItems"}


class Refusal(Exception):
    """What the service answers instead: a status with a message."""

    def __init__(self, status: int, kind: str, message: str):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


@dataclass
class Fault:
    """
    `kind`: a status ("429", "500", "529"...), "hang", "cut" (connection closed, no reply),
    "truncated" (half a body) or "not_json". `times`: how often; `match`: only bodies with this.
    """

    kind: str
    times: int = 1
    match: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    after_work: bool = False


@dataclass
class Batch:
    id: str
    created: float
    requests: list[Json]
    results: dict[str, Json] = field(default_factory=dict)
    ended: bool = False
    cancelled: bool = False


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: Json


class WireDouble:
    """Start with `with WireDouble() as double:`; `double.url` is the base address without /v1."""

    def __init__(self) -> None:
        self.key = "test-key"
        self.models = {"claude-haiku-5-5", "claude-haiku-4-5", "tiny-llama"}
        self.labels = ("negative", "neutral", "positive")
        self.probabilities = (0.1, 0.2, 0.7)
        self.latency = 0.0
        self.max_in_flight = 10_000
        self.max_model_len = 4096
        self.stop_reason: str | None = None
        self.write: Callable[[str, Json], str] = self.answer
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.batches: dict[str, Batch] = {}
        self.end_batches = True
        self.batch_fate: Callable[[Batch, int, str], str] = lambda batch, index, key: "succeeded"
        self.waiting = 0
        self._in_flight = 0
        self._ids = itertools.count(1)

    # ---- life

    def __enter__(self) -> "WireDouble":
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
            self._tasks: set[asyncio.Task[Any]] = set()
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            await self._stopped.wait()
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run(serve())

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.strip().split("\r\n")
        method, target, _ = line.split(" ")
        headers = {k.lower(): v.strip() for k, v in (item.split(":", 1) for item in rest)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        text = raw.decode()
        fault = self._fault(text) if method == "POST" else None
        if fault and fault.kind == "hang":
            await asyncio.sleep(3600)
        if fault and fault.kind == "cut" and not fault.after_work:
            return False
        status, body, extra = await self._serve(method, target, headers, text, fault)
        if fault and fault.kind == "cut":
            return False
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        if fault and fault.kind == "not_json":
            payload = b"<html>502 Bad Gateway</html>"
        shown = payload[: len(payload) // 2] if fault and fault.kind == "truncated" else payload
        more = "".join(f"{k}: {v}\r\n" for k, v in {**extra, "x-double": "yes"}.items())
        writer.write(
            f"HTTP/1.1 {status} Double\r\ncontent-type: application/json\r\n"
            f"content-length: {len(payload)}\r\n{more}\r\n".encode()
            + shown
        )
        await writer.drain()
        return len(shown) == len(payload)

    def _fault(self, text: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.match in text:
                fault.times -= 1
                return fault
        return None

    # ---- routes

    async def _serve(
        self, method: str, target: str, headers: dict[str, str], text: str, fault: Fault | None
    ) -> tuple[int, Json | bytes, dict[str, str]]:
        url = urlsplit(target)
        path, anthropic = url.path, "/messages" in url.path
        try:
            body = json.loads(text) if text else {}
            self.seen.append(Seen(method, path, headers, body))
            if path == "/metrics":
                line = f'vllm:num_requests_waiting{{engine="0",model_name="m"}} {self.waiting}.0\n'
                return 200, line.encode(), {}
            self._admit(headers, anthropic)
            if fault and fault.kind.isdigit():
                raise Refusal(int(fault.kind), "fault", f"told to answer {fault.kind}")
            if "/messages/batches" in path:
                query = {k: v[0] for k, v in parse_qs(url.query).items()}
                return 200, self._batch_route(method, path, body, query), {}
            if path not in ("/v1/messages", "/v1/chat/completions"):
                raise Refusal(404, "not_found_error", f"no such path {path}")
            return 200, await self._generate(body, anthropic), {}
        except Refusal as refusal:
            error = {"type": refusal.kind, "message": refusal.message}
            extra = fault.headers if fault else {}
            return refusal.status, {"type": "error", "error": error}, extra

    def _admit(self, headers: dict[str, str], anthropic: bool) -> None:
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self.key not in (bearer, headers.get("x-api-key")):
            raise Refusal(401, "authentication_error", "invalid bearer token")
        if anthropic and not headers.get("anthropic-version"):
            raise Refusal(400, "invalid_request_error", "anthropic-version: header is required")

    async def _generate(self, body: Json, anthropic: bool) -> Json:
        check_anthropic(body) if anthropic else check_openai(body, self.max_model_len)
        if body["model"] not in self.models:
            raise Refusal(404, "not_found_error", f"model: {body['model']}")
        self.asked[last_text(body)] += 1
        if self._in_flight >= self.max_in_flight:
            raise Refusal(429, "rate_limit_error", "too many concurrent requests")
        self._in_flight += 1
        try:
            await asyncio.sleep(self.latency)
        finally:
            self._in_flight -= 1
        self.paid[last_text(body)] += 1
        return self._message(body) if anthropic else self._completion(body)

    # ---- answers

    def label(self, text: str) -> str:
        """The label of a text: its own word where it holds one, else by hash."""
        named = [label for label in self.labels if label in text.lower()]
        digest = hashlib.sha256(text.encode()).digest()[0]
        return named[0] if named else self.labels[digest % len(self.labels)]

    def answer(self, text: str, schema: Json) -> str:
        """An object that satisfies the schema, with its keys in the schema's order."""
        label = self.label(text)
        known: Json = {
            "label": label,
            "rationale": "The company reports a change that moves its expected earnings.",
            "confidence": 0.9,
        }
        return json.dumps({key: known.get(key, "x") for key in schema["properties"]})

    def _text(self, body: Json, schema: Json | None, most: int) -> tuple[str, int, bool]:
        shown = last_text(body)
        prose = f"I would call it {self.label(shown)}, all things considered."
        text = self.write(shown, schema) if schema else prose
        return text[: 3 * most], min(most, -(-len(text) // 3)), len(text) > 3 * most

    def _message(self, body: Json) -> Json:
        schema = body.get("output_config", {}).get("format", {}).get("schema")
        text, tokens, cut = self._text(body, schema, body["max_tokens"])
        content: list[Json] = [{"type": "text", "text": text, "citations": None}]
        if body.get("thinking", {"type": "adaptive"})["type"] != "disabled":
            content.insert(0, {"type": "thinking", "thinking": "Hm.", "signature": "s"})
        prompt = len(json.dumps(body["messages"])) + len(json.dumps(body.get("system", "")))
        return {
            "id": f"msg_{next(self._ids)}",
            "type": "message",
            "role": "assistant",
            "model": body["model"] + "-20261007",
            "content": content,
            "stop_reason": self.stop_reason or ("max_tokens" if cut else "end_turn"),
            "stop_sequence": None,
            "usage": {
                "input_tokens": prompt // 4,
                "output_tokens": tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            },
        }

    def _completion(self, body: Json) -> Json:
        form = body.get("response_format", {})
        schema = form["json_schema"]["schema"] if form.get("type") == "json_schema" else None
        most = body.get("max_completion_tokens", 16)
        text, tokens, cut = self._text(body, schema, most)
        chosen = self._logprobs(text, body.get("top_logprobs", 0)) if body.get("logprobs") else None
        prompt = len(json.dumps(body["messages"])) // 4
        return {
            "id": f"chatcmpl-{next(self._ids)}",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": chosen,
                    "finish_reason": self.stop_reason or ("length" if cut else "stop"),
                }
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": tokens,
                "total_tokens": prompt + tokens,
            },
        }

    def _logprobs(self, text: str, top: int) -> Json:
        """Tokens of up to three letters; at a label's first token the labels compete."""
        starts = {label[:3]: p for label, p in zip(self.labels, self.probabilities, strict=True)}
        label = re.search(rf'"label": ?"({"|".join(starts)})', text)
        content = []
        for piece in re.finditer(r"\w{1,3}|\W", text):
            here = label is not None and piece.start() == label.start(1)
            odds = starts if here else {piece[0]: 0.99, "~": 0.005}
            ranked = sorted(odds.items(), key=lambda item: -item[1])[:top]
            tops = [token_entry(token, p) for token, p in ranked]
            content.append({**token_entry(piece[0], odds[piece[0]]), "top_logprobs": tops})
        return {"content": content}

    # ---- batches

    def _batch_route(self, method: str, path: str, body: Json, query: Json) -> Json | bytes:
        parts = path.removeprefix("/v1/messages/batches").strip("/").split("/")
        if parts == [""]:
            return self._create(body) if method == "POST" else self._list(query)
        batch = self.batches.get(parts[0])
        if batch is None:
            raise Refusal(404, "not_found_error", f"no batch {parts[0]}")
        if parts[1:] == ["cancel"]:
            batch.cancelled = True
        self._maybe_end(batch)
        if parts[1:] == ["results"]:
            if not batch.ended:
                raise Refusal(400, "invalid_request_error", "the batch has not ended")
            return "".join(self._result_lines(batch)).encode()
        return self._describe(batch)

    def _create(self, body: Json) -> Json:
        requests = body.get("requests") or []
        ids = [str(item.get("custom_id")) for item in requests]
        if not 0 < len(ids) <= 100_000:
            raise Refusal(400, "invalid_request_error", "requests: 1 to 100,000 are allowed")
        wrong = [i for i in ids if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", i)]
        if wrong or len(set(ids)) != len(ids):
            raise Refusal(400, "invalid_request_error", "custom_id: 1-64 characters, unique")
        batch = Batch(f"msgbatch_{next(self._ids):04d}", time.time(), requests)
        self.batches[batch.id] = batch
        return self._describe(batch)

    def _list(self, query: Json) -> Json:
        for batch in self.batches.values():
            self._maybe_end(batch)
        newest = [self._describe(b) for b in reversed(self.batches.values())]
        after = query.get("after_id")
        start = next((i + 1 for i, b in enumerate(newest) if b["id"] == after), 0)
        page = newest[start : start + int(query.get("limit", 20))]
        more = start + len(page) < len(newest)
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return {"data": page, "has_more": more, "first_id": None, "last_id": None, **ends}

    def _maybe_end(self, batch: Batch) -> None:
        if batch.ended or not (self.end_batches or batch.cancelled):
            return
        for index, item in enumerate(batch.requests):
            fate = (
                "canceled" if batch.cancelled else self.batch_fate(batch, index, item["custom_id"])
            )
            batch.results[item["custom_id"]] = self._result(item, fate)
        batch.ended = True

    def _result(self, item: Json, fate: str) -> Json:
        params = item["params"]
        try:
            check_anthropic(params)
        except Refusal as refusal:
            return errored(refusal.kind, refusal.message)
        if fate == "succeeded":
            self.paid[last_text(params)] += 1
            return {"type": "succeeded", "message": self._message(params)}
        if fate in ("canceled", "expired"):
            return {"type": fate}
        return errored(fate, "told to fail")

    def _result_lines(self, batch: Batch) -> Iterator[str]:
        order = list(batch.results.items())
        random.Random(batch.id).shuffle(order)
        for key, result in order:
            yield json.dumps({"custom_id": key, "result": result}) + "\n"

    def _describe(self, batch: Batch) -> Json:
        kinds = Counter(result["type"] for result in batch.results.values())
        names = ("succeeded", "errored", "canceled", "expired")
        counts = {"processing": 0 if batch.ended else len(batch.requests)}
        counts |= {name: kinds[name] for name in names}
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if batch.ended else "in_progress",
            "request_counts": counts,
            "created_at": stamp(batch.created),
            "expires_at": stamp(batch.created + 86_400),
            "ended_at": stamp(time.time()) if batch.ended else None,
            "cancel_initiated_at": None,
            "archived_at": None,
            "results_url": f"{self.url}/v1/messages/batches/{batch.id}/results"
            if batch.ended
            else None,
        }


def errored(kind: str, message: str) -> Json:
    error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}
    return {"type": "errored", "error": error}


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def token_entry(token: str, probability: float) -> Json:
    raw = list(token.encode())
    return {"token": token, "logprob": math.log(probability), "bytes": raw}


def last_text(body: Json) -> str:
    return str(body["messages"][-1]["content"])


def check_anthropic(body: Json) -> None:
    """The rules of API version 2026-10-21 for a non-streaming request."""

    def refuse(message: str) -> None:
        raise Refusal(400, "invalid_request_error", message)

    for name in body.keys() - ANTHROPIC_FIELDS:
        refuse(f"{name}: Extra inputs are not permitted")
    if not isinstance(body.get("max_tokens"), int):
        refuse("max_tokens: Field required")
    if not body.get("messages"):
        refuse("messages: at least one is required")
    if body["messages"][-1]["role"] != "user":
        refuse("This model does not support assistant message prefill.")
    if body.get("thinking", {"type": "disabled"}) not in (
        {"type": "disabled"},
        {"type": "adaptive"},
    ):
        refuse("thinking: only disabled and adaptive are supported by this model")
    config = body.get("output_config", {})
    for name in config.keys() - {"format", "effort"}:
        refuse(f"output_config.{name}: Extra inputs are not permitted")
    if config.get("format") and config["format"].get("type") != "json_schema":
        refuse("output_config.format.type: must be json_schema")
    check_schema(config.get("format", {}).get("schema", {"type": "string"}), refuse)


def check_schema(schema: Json, refuse: Callable[[str], None]) -> None:
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        refuse("output_config.format.schema: additionalProperties must be set to false")
    for name in schema.keys() & UNSUPPORTED:
        refuse(f"output_config.format.schema: {name} is not supported")
    for inner in schema.get("properties", {}).values():
        check_schema(inner, refuse)


def check_openai(body: Json, max_model_len: int) -> None:
    """vLLM 0.32: unknown fields (guided_json...) are ignored without a word, these are not."""

    def refuse(message: str) -> None:
        raise Refusal(400, "BadRequestError", message)

    form = body.get("response_format")
    if form and form.get("type") == "json_schema" and not form.get("json_schema", {}).get("name"):
        refuse("response_format.json_schema.name: Field required")
    if body.get("top_logprobs") and not body.get("logprobs"):
        refuse("when using `top_logprobs`, `logprobs` must be set to true.")
    if body.get("top_logprobs", 0) > 20:
        refuse("Requested sample logprobs of 21 or more, which is greater than max allowed: 20")
    if (
        len(json.dumps(body["messages"])) // 4 + body.get("max_completion_tokens", 0)
        > max_model_len
    ):
        refuse(f"This model's maximum context length is {max_model_len} tokens.")
