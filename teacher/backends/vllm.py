"""A model behind an OpenAI-compatible chat server, in the first place `vllm serve`."""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from common.config.teacher import VllmTeacher
from common.errors import TeacherError
from common.records import Example, TeacherAnswer, Unanswered, Usage
from teacher.backends.chat import ChatForm, terms_flag
from teacher.backends.failures import failure_of
from teacher.base import Go, Question, Reply, Unavailable, at_once
from teacher.label_probabilities import label_places, label_probabilities
from teacher.parsing import Stop
from teacher.prompts import BoundPrompt
from teacher.rationale_odds import rationale_odds, rationale_window

MOST_TOP_LOGPROBS = 20  # vLLM's --max-logprobs
_WAITING = re.compile(r"^vllm:num_requests_waiting(?:\{[^}]*\})?\s+([0-9.eE+]+)\s*$", re.M)
_STOPS: dict[str, Stop] = {"length": "truncated", "content_filter": "refused"}
_JSON = {"content-type": "application/json"}
_CURES = {
    401: "set VLLM_API_KEY to the server's --api-key.",
    403: "set VLLM_API_KEY to a key that may use this model.",
    404: "check teacher.model against the server's --served-model-name, and VLLM_BASE_URL.",
}


class VllmForm:
    """
    What a vLLM teacher asks and how it reads replies, whichever engine answers.

    The instructions come first and the text last, so that the server's prefix cache holds all
    but the text. Replies are in the form of OpenAI's chat completions.
    """

    provider = "vllm"
    remote = True

    def __init__(self, config: VllmTeacher, bound: BoundPrompt):
        self.name = config.name or config.model
        self.model = config.model
        self.samples = config.samples
        self.paid = config.usd_per_gpu_hour is not None
        self.terms = terms_flag(config.model)
        self._config = config
        self._labels = bound.task.label_names
        fixed, sampling = request_shape(config, bound)
        self._form = ChatForm(bound, fixed, sampling, self._most_usd, system_turn=True)

    def question(self, example: Example, sample: int) -> Question:
        """What would be asked of this example."""
        question = self._form.question(example, sample, self._config.max_output_tokens)
        if self._config.temperature > 0:
            # repeatable samples that differ from each other
            question = replace(question, payload={**question.payload, "seed": sample})
        return question

    def repair(self, question: Question, reply: Reply, fault: Unanswered) -> Question | None:
        """The conversation continued with what was wrong; None after a refusal."""
        return self._form.repair(question, text_of(reply.body)[0], fault)

    def read(self, question: Question, reply: Reply) -> TeacherAnswer | Unanswered:
        """Validate a reply, whatever the server promised, and add the label probabilities."""
        entries = _choice(reply.body).get("logprobs") or {}
        content = entries.get("content") or []
        probabilities = label_probabilities(content, self._labels) if content else None
        said = text_of(reply.body)
        answer = self._form.read(question, reply, self.name, said, probabilities)
        if self._config.rationale_logprobs and isinstance(answer, TeacherAnswer):
            odds = rationale_odds(content, answer.rationale or "")
            return answer.model_copy(update={"rationale_odds": odds})
        return answer

    def reply_of(self, body: Mapping[str, Any], seconds: float) -> Reply:
        """
        A chat completion as a Reply. Raises Unavailable for what is none.

        Token probabilities are kept for the label's tokens only: over a whole reply they are a
        hundred times its text, and the cache would hold little else. `rationale_logprobs` asks for
        those of the rationale too.
        """
        if not _choice(body) or not isinstance(body.get("usage"), dict):
            raise Unavailable(f"the reply of {self.model}'s server is no chat completion.")
        return Reply(
            body=_trimmed(body, self._config.rationale_logprobs),
            usage=usage_of(body["usage"], self._usd(seconds)),
            model=str(body.get("model") or self.model),
            received_at=time.time(),
            seconds=seconds,
        )

    def _usd(self, seconds: float) -> float:
        """The share of a server that works on `max_concurrency` requests at a time."""
        hourly = self._config.usd_per_gpu_hour or 0.0
        return hourly * seconds / 3600 / self._config.pace.max_concurrency

    def _most_usd(self, prompt: int, output: int) -> float:
        return self._usd(self._config.pace.timeout_seconds)


class Vllm(VllmForm):
    """
    The HTTP side: one POST a question. aiohttp costs 0.2 ms of CPU a request, httpx2 0.8 ms
    (benchmarks/teacher_clients.py).

    The session belongs to the event loop it is first used in; `close` it there.
    """

    def __init__(
        self, config: VllmTeacher, bound: BoundPrompt, base_url: str, api_key: str | None = None
    ):
        super().__init__(config, bound)
        self._root = base_url.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, question: Question, go: Go = at_once) -> Reply:
        """Send one request. Raises RateLimited, Unavailable, RowRejected or TeacherRejected."""
        asked = json.dumps(question.payload).encode()
        await go()
        start = time.perf_counter()
        try:
            async with self._open().post(
                f"{self._root}/v1/chat/completions", data=asked, headers=_JSON
            ) as response:
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._no_reply(error) from error
        if response.status != 200:
            said = _message_of(raw)
            raise failure_of("vLLM", response.status, said, response.headers, _CURES)
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise Unavailable(f"vLLM's reply could not be read: {error}.") from error
        return self.reply_of(body, time.perf_counter() - start)

    async def waiting(self) -> int | None:
        """
        Requests in the server's queue, from its /metrics; None where it does not say.

        vLLM queues without bound instead of answering 429, so this is how overload shows.
        """
        try:
            async with self._open().get(f"{self._root}/metrics") as response:
                found = _WAITING.findall(await response.text())
        except (aiohttp.ClientError, TimeoutError):
            return None
        return round(sum(float(number) for number in found)) if found else None

    async def close(self) -> None:
        """Release connections."""
        if self._session:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self._config.pace.timeout_seconds),
                connector=aiohttp.TCPConnector(limit=0),  # the pace is kept elsewhere
            )
        return self._session

    def _no_reply(self, error: Exception) -> TeacherError:
        if isinstance(error, TimeoutError):
            return Unavailable("vLLM did not answer in time.")
        return Unavailable(f"the connection to vLLM at {self._root} failed: {error}.")


def request_shape(config: VllmTeacher, bound: BoundPrompt) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The constant part of the request, and what of it can change an answer.

    `response_format` is the one field for constrained output that is honoured everywhere:
    vLLM has ignored `guided_json` without a word since 0.12.
    """
    named = {"name": "answer", "strict": True, "schema": bound.schema}
    sampling: dict[str, Any] = {"temperature": config.temperature}
    if config.top_p < 1:
        sampling["top_p"] = config.top_p
    if config.logprobs:
        top = max(top_logprobs(len(bound.task.labels)), config.rationale_logprobs or 0)
        sampling |= {"logprobs": True, "top_logprobs": top}
    sampling |= {"model": config.model, "max_completion_tokens": config.max_output_tokens}
    fixed = {**sampling, "response_format": {"type": "json_schema", "json_schema": named}}
    engine = {"engine_options": config.engine_options} if config.engine_options else {}
    # what is kept of a reply is part of what was asked: a cache without it has no answer
    kept = {"rationale_logprobs": config.rationale_logprobs} if config.rationale_logprobs else {}
    return fixed, {"provider": "vllm", **sampling, **engine, **kept}


def top_logprobs(labels: int) -> int:
    """How many alternatives to ask for: two spellings of each label's beginning, and some air."""
    return min(MOST_TOP_LOGPROBS, 2 * labels + 2)


def text_of(body: Mapping[str, Any]) -> tuple[str, Stop]:
    """The text of a chat completion, and how it ended."""
    choice = _choice(body)
    message = choice.get("message") or {}
    if message.get("refusal"):
        return str(message["refusal"]), "refused"
    return message.get("content") or "", _STOPS.get(str(choice.get("finish_reason")), "complete")


def usage_of(usage: Mapping[str, Any], usd: float) -> Usage:
    """Tokens of a reply; those from the prefix cache are counted apart where the server says."""
    details = usage.get("prompt_tokens_details") or {}
    cached = int(details.get("cached_tokens") or 0)
    return Usage(
        input_tokens=int(usage.get("prompt_tokens") or 0) - cached,
        output_tokens=int(usage.get("completion_tokens") or 0),
        cache_read_tokens=cached,
        usd=usd,
    )


def _choice(body: Any) -> Mapping[str, Any]:
    choices = body.get("choices") if isinstance(body, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _trimmed(body: Mapping[str, Any], of_rationale: int | None) -> dict[str, Any]:
    choice = dict(_choice(body))
    content = (choice.get("logprobs") or {}).get("content")
    if content:
        window = label_places(content)
        kept = rationale_window(content, of_rationale) if of_rationale else {}
        kept |= {place: content[place] for place in window}
        choice["logprobs"] = {"content": [_finite(kept[place]) for place in sorted(kept)]}
    return {**body, "choices": [choice]}


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Without tokens of probability 0: JSON has no -inf, and some servers send it."""
    tops = [t for t in entry.get("top_logprobs") or [] if math.isfinite(t["logprob"])]
    return {**entry, "top_logprobs": tops}


def _message_of(raw: bytes) -> str:
    try:
        body = json.loads(raw)
    except ValueError:
        return raw[:200].decode(errors="replace")
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        return str(error.get("message") or error.get("detail") or error)
    return str(error)
