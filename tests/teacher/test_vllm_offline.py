"""
vLLM in this process, against a double of the `vllm` package: the engine itself needs an environment
of its own and is met in test_vllm_real.py, where one is at hand.
"""

import asyncio
import math
import sys
import types
from typing import Any, ClassVar

import pytest

from common.config.teacher import VllmTeacher
from common.errors import MissingDependency, TeacherError
from common.records import Example, TeacherAnswer
from common.task import load_task
from teacher.backends.vllm import Vllm
from teacher.backends.vllm_offline import VllmOffline
from teacher.base import Reply, RowRejected
from teacher.prompts import load_prompt

TOKENS = [
    '{"label": "',
    "pos",
    'itive", "rationale": "Profit rose, which helps.", ',
    '"confidence": 1}',
]


class Parameters:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Engine:
    """Takes what vllm.LLM.chat takes, refuses all when one text is too long, as vLLM does."""

    made: ClassVar[list[dict[str, Any]]] = []
    calls: ClassVar[list[list[Any]]] = []
    broken = False

    def __init__(self, **options: Any) -> None:
        self.made.append(options)

    def chat(self, messages: list[Any], sampling: list[Any], use_tqdm: bool) -> list[Any]:
        assert len(messages) == len(sampling)
        assert not use_tqdm
        if self.broken:
            raise RuntimeError("EngineDeadError")
        if any("too long" in turns[-1]["content"] for turns in messages):
            raise ValueError("The decoder prompt is longer than the maximum model length of 9.")
        self.calls.append(list(zip(messages, sampling, strict=True)))
        return [self.output(parameters) for parameters in sampling]

    def output(self, parameters: Any) -> Any:
        logprobs = [{i: Parameters(logprob=0.0, decoded_token=t)} for i, t in enumerate(TOKENS)]
        logprobs[1] |= {
            1: Parameters(logprob=math.log(0.6), decoded_token="pos"),
            90: Parameters(logprob=math.log(0.2), decoded_token="neu"),
            91: Parameters(logprob=-math.inf, decoded_token="neg"),
        }
        choice = Parameters(
            text="".join(TOKENS),
            token_ids=list(range(len(TOKENS))),
            logprobs=logprobs if parameters.logprobs else None,
            finish_reason="stop",
        )
        return Parameters(outputs=[choice], prompt_token_ids=[1] * 50, num_cached_tokens=40)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    package, sampling = types.ModuleType("vllm"), types.ModuleType("vllm.sampling_params")
    package.__dict__.update(LLM=Engine, SamplingParams=Parameters)
    sampling.__dict__.update(StructuredOutputsParams=Parameters)
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    monkeypatch.setattr(Engine, "made", [])
    monkeypatch.setattr(Engine, "calls", [])
    monkeypatch.setattr(Engine, "broken", False)
    return Engine


def offline(**settings: Any) -> VllmOffline:
    config = VllmTeacher(kind="vllm", engine="offline", **{"model": "tiny-llama", **settings})
    return VllmOffline(
        config, load_prompt("sentiment-v1").bind(load_task("sentiment"), "after_label")
    )


def ask_all(teacher: VllmOffline, texts: list[str]) -> list[Reply | BaseException]:
    async def run() -> list[Reply | BaseException]:
        questions = [teacher.question(Example(id=t, text=t), 0) for t in texts]
        try:
            asked = [teacher.ask(question) for question in questions]
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await teacher.close()

    return asyncio.run(run())


def test_questions_asked_together_are_one_call_of_the_engine(engine: type[Engine]) -> None:
    replies = ask_all(offline(), [f"Text {i}." for i in range(500)])

    assert all(isinstance(reply, Reply) for reply in replies)
    assert [len(call) for call in engine.calls] == [500]
    assert len(engine.made) == 1


def test_an_answer_of_the_engine_reads_like_one_of_the_server(engine: type[Engine]) -> None:
    teacher = offline()
    [reply] = ask_all(teacher, ["Profit rose."])
    assert isinstance(reply, Reply)

    answer = teacher.read(teacher.question(Example(id="a", text="Profit rose."), 0), reply)

    assert isinstance(answer, TeacherAnswer)
    assert answer.label == "positive"
    # 0.6 against 0.2 and an impossible third
    assert answer.probabilities == pytest.approx({"negative": 0, "neutral": 0.25, "positive": 0.75})
    assert (answer.usage.input_tokens, answer.usage.cache_read_tokens) == (10, 40)
    assert reply.dump()  # no infinities: they could not be stored


def test_the_engine_is_asked_with_the_schema_and_the_sampling_of_the_server(
    engine: type[Engine],
) -> None:
    ask_all(offline(temperature=0.7, top_p=0.9, engine_options={"max_model_len": 512}), ["A."])

    [[(turns, sampling)]] = engine.calls
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert sampling.structured_outputs.json["required"][0] == "label"
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.7, 0.9, 0)
    assert (sampling.max_tokens, sampling.logprobs) == (256, 8)
    assert engine.made == [{"model": "tiny-llama", "max_model_len": 512}]


def test_server_and_engine_share_their_answers(engine: type[Engine]) -> None:
    example = Example(id="a", text="Profit rose.")
    config = VllmTeacher(kind="vllm", model="tiny-llama")
    bound = load_prompt("sentiment-v1").bind(load_task("sentiment"), "after_label")

    served = Vllm(config, bound, "http://127.0.0.1:1").question(example, 0)

    assert offline().question(example, 0).key == served.key
    assert offline(engine_options={"dtype": "int8"}).question(example, 0).key != served.key


def test_one_text_the_engine_cannot_take_costs_no_other_row(engine: type[Engine]) -> None:
    texts = [f"Text {i}." for i in range(20)]
    texts[7] = "This one is too long."

    replies = ask_all(offline(), texts)

    assert isinstance(replies[7], RowRejected)
    assert "longer than the maximum" in str(replies[7])
    assert sum(isinstance(reply, Reply) for reply in replies) == 19


def test_an_engine_that_dies_ends_the_job_with_its_reason(engine: type[Engine]) -> None:
    engine.broken = True

    replies = ask_all(offline(), ["A.", "B."])

    assert all(type(reply) is TeacherError for reply in replies)
    assert "RuntimeError: EngineDeadError" in str(replies[0])


def test_without_the_package_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)

    [failure] = ask_all(offline(), ["A."])

    assert isinstance(failure, MissingDependency)
    assert "use engine: server" in str(failure)


def test_an_hour_of_the_engine_is_shared_by_the_rows_it_answered(engine: type[Engine]) -> None:
    replies = ask_all(offline(usd_per_gpu_hour=3600.0), ["A.", "B."])

    first, second = (reply for reply in replies if isinstance(reply, Reply))
    assert first.usage.usd == pytest.approx(first.seconds)
    assert first.seconds == second.seconds


def test_options_for_an_engine_that_is_not_used_are_a_fault() -> None:
    with pytest.raises(ValueError, match="engine_options are for engine: offline"):
        VllmTeacher(kind="vllm", model="m", engine_options={"dtype": "float16"})
