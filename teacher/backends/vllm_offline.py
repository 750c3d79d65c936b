"""vLLM inside this process, for a GPU worker whose environment has it: no server, large batches."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from common.config.teacher import VllmTeacher
from common.errors import FinstillError, MissingDependency, TeacherError
from teacher.backends.vllm import VllmForm
from teacher.base import Go, Question, Reply, RowRejected, at_once
from teacher.prompts import BoundPrompt

logger = logging.getLogger(__name__)

_Waiting = tuple[Question, "asyncio.Future[Reply]"]


class VllmOffline(VllmForm):
    """
    The engine side: questions asked at the same time become one call of `vllm.LLM.chat`.

    `ask` waits for its answer like any other teacher's, so ask many at once: the engine
    schedules thousands better than a window of dozens. The model is loaded at the first question.
    """

    remote = False

    def __init__(self, config: VllmTeacher, bound: BoundPrompt):
        super().__init__(config, bound)
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None
        # one thread: the engine is not made for several
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm")
        self._engine: Any = None

    async def ask(self, question: Question, go: Go = at_once) -> Reply:
        """
        Answer one question together with all others asked by now.

        Raises RowRejected for a text the engine cannot take, MissingDependency without vllm and
        TeacherError when the engine fails.
        """
        await go()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((question, answered))
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._answer_waiting())
        return await answered

    async def close(self) -> None:
        """Let go of the engine and its GPU memory."""
        self._engine = None
        self._thread.shutdown(wait=True)

    async def _answer_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(0)  # whoever asks in this turn of the loop comes along
            batch, self._waiting = self._waiting, []
            questions = [question for question, _ in batch]
            work = partial(self._answer, questions)
            outcomes: Sequence[Reply | FinstillError]
            try:
                outcomes = await loop.run_in_executor(self._thread, work)
            except Exception as error:
                outcomes = [_failure(error)] * len(batch)
            for (_, answered), outcome in zip(batch, outcomes, strict=True):
                _settle(answered, outcome)

    def _answer(self, questions: Sequence[Question]) -> list[Reply | FinstillError]:
        """One call for all; where it is refused, halves are tried until the bad text is alone."""
        if self._engine is None:
            self._engine = _load_engine(self._config)
        start = time.perf_counter()
        try:
            outputs = self._engine.chat(
                [list(question.payload["messages"]) for question in questions],
                [_sampling(question.payload) for question in questions],
                use_tqdm=False,
            )
        except ValueError as error:  # vLLM checks every prompt before it works on any
            if len(questions) == 1:
                return [RowRejected(f"vLLM refuses the text: {error}")]
            middle = len(questions) // 2
            return self._answer(questions[:middle]) + self._answer(questions[middle:])
        share = (time.perf_counter() - start) / len(questions)
        logger.info("vLLM answered %d questions, %.1f a second", len(questions), 1 / share)
        return [self.reply_of(_completion(output, self.model), share) for output in outputs]

    def _usd(self, seconds: float) -> float:
        return (self._config.usd_per_gpu_hour or 0.0) * seconds / 3600


def _load_engine(config: VllmTeacher) -> Any:
    try:
        import vllm
    except ImportError as error:
        raise MissingDependency(
            "teacher.engine: 'offline' needs the vllm package in this worker's environment and "
            f"it cannot be imported ({error}); install it there, or use engine: server."
        ) from error
    options: Any = config.engine_options
    return vllm.LLM(model=config.model, **options)


def _sampling(payload: Mapping[str, Any]) -> Any:
    """The request's sampling in the engine's own terms."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    schema = payload["response_format"]["json_schema"]["schema"]
    return SamplingParams(
        temperature=payload["temperature"],
        top_p=payload.get("top_p", 1.0),
        seed=payload.get("seed"),
        max_tokens=payload["max_completion_tokens"],
        logprobs=payload.get("top_logprobs"),
        structured_outputs=StructuredOutputsParams(json=schema),
    )


def _completion(output: Any, model: str) -> dict[str, Any]:
    """A RequestOutput in the form of the server's chat completion, so that one reader suffices."""
    [choice] = output.outputs
    prompt, written = len(output.prompt_token_ids or ()), len(choice.token_ids)
    return {
        "object": "chat.completion",
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": choice.text},
                "logprobs": {"content": _entries(choice)} if choice.logprobs else None,
                "finish_reason": choice.finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": output.num_cached_tokens or 0},
        },
    }


def _entries(choice: Any) -> list[dict[str, Any]]:
    """The tokens in OpenAI's form: the chosen one with the likeliest at its place."""
    return [
        {**_entry(found[token]), "top_logprobs": [_entry(other) for other in found.values()]}
        for token, found in zip(choice.token_ids, choice.logprobs, strict=True)
    ]


def _entry(logprob: Any) -> dict[str, Any]:
    text = logprob.decoded_token or ""
    return {"token": text, "logprob": float(logprob.logprob), "bytes": list(text.encode())}


def _failure(error: Exception) -> FinstillError:
    if isinstance(error, FinstillError):
        return error
    return TeacherError(
        f"the vLLM engine failed ({type(error).__name__}: {error}); see the worker's log, "
        "restart it and resume the job."
    )


def _settle(answered: "asyncio.Future[Reply]", outcome: Reply | Exception) -> None:
    if answered.done():  # its asker has gone
        return
    if isinstance(outcome, Exception):
        answered.set_exception(outcome)
    else:
        answered.set_result(outcome)
