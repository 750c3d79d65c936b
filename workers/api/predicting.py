"""
Students answering in batches; trained ones and exports of them alike.

One process does all computing: two would fight for the cores. Requests that arrive while a batch is
being computed wait together and make the next batch, which is handed over before it is needed.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path

from anyio import to_thread

from workers.api import students
from workers.api.problems import Problem
from workers.api.students import Said

logger = logging.getLogger(__name__)

MOST_WAITING_TEXTS = 4096
BATCH_TEXTS = 64  # as efficient as more, and the next texts arrive while these are computed
BATCHES_AHEAD = 2  # one computed, one at hand when it is done
GATHER_SECONDS = 0.002
ANSWER_SECONDS = 60.0


@dataclass
class _Wish:
    texts: Sequence[str]
    rationales: bool
    answer: "asyncio.Future[list[Said]]"


class PredictorPool:
    """Up to `most_models` students; the least recently used one makes room."""

    def __init__(self, runs: Path, threads: int, most_models: int):
        self._runs, self._threads, self._most = runs, threads, most_models
        self._executor: ProcessPoolExecutor | None = None
        self._starting = asyncio.Lock()
        self._loaded: list[Path] = []
        self._queues: dict[Path, asyncio.Queue[_Wish]] = {}
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self.waiting = 0

    @property
    def loaded(self) -> list[str]:
        """`run/system`, or `run/system/export`, of every student in memory; last used last."""
        return [self._name(folder) for folder in self._loaded]

    def _name(self, folder: Path) -> str:
        run, _, system, *kind = folder.relative_to(self._runs).parts
        return "/".join([run, system, *(name for name in kind if name not in ("model", "exports"))])

    async def predict(self, folder: Path, texts: Sequence[str], rationales: bool) -> list[Said]:
        """
        Answers of the student (a model/ folder or an export) in `folder`, in the order of `texts`.

        Raises Problem 429 when too much waits, 504 when it takes too long, StudentError.
        """
        if self.waiting + len(texts) > MOST_WAITING_TEXTS:
            raise Problem(
                429, f"{self.waiting} texts are waiting already.", headers={"Retry-After": "1"}
            )
        wish = _Wish(texts, rationales, asyncio.get_running_loop().create_future())
        self.waiting += len(texts)
        try:
            self._queue(folder).put_nowait(wish)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await wish.answer
        except TimeoutError:
            raise Problem(504, f"no answer within {ANSWER_SECONDS:.0f} s.") from None
        finally:
            self.waiting -= len(texts)

    async def close(self) -> None:
        """Stop answering."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._executor:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _queue(self, folder: Path) -> asyncio.Queue[_Wish]:
        if folder not in self._queues:
            self._queues[folder] = asyncio.Queue()
        task = self._tasks.get(folder)
        if task is None or task.done():
            self._tasks[folder] = asyncio.create_task(self._serve(folder))
        return self._queues[folder]

    async def _serve(self, folder: Path) -> None:
        queue, ahead = self._queues[folder], asyncio.Semaphore(BATCHES_AHEAD)
        async with asyncio.TaskGroup() as group:
            while True:
                await ahead.acquire()
                batch = await _gather(queue)
                done = group.create_task(self._answer(folder, batch))
                done.add_done_callback(lambda _: ahead.release())

    async def _answer(self, folder: Path, batch: "list[_Wish]") -> None:
        for rationales in (False, True):
            wishes = [w for w in batch if w.rationales is rationales and not w.answer.done()]
            if wishes:
                texts = [text for wish in wishes for text in wish.texts]
                await _hand_out(self._compute(folder, texts, rationales), wishes)

    async def _compute(self, folder: Path, texts: list[str], rationales: bool) -> list[Said]:
        """Once more where the process ended under it; not a third time: it may be the reason."""
        loop = asyncio.get_running_loop()
        for _ in range(2):
            executor = None
            try:
                executor = await self._started()
                answers, self._loaded = await loop.run_in_executor(
                    executor, students.answer, folder, texts, rationales
                )
                return answers
            except BrokenProcessPool:
                logger.warning("the process of the students ended and is started again")
                if executor is None or self._executor is executor:
                    self._executor, self._loaded = None, []
        raise Problem(503, "the student's process ended twice under these texts.")

    async def _started(self) -> ProcessPoolExecutor:
        async with self._starting:
            if self._executor is None:
                self._executor = await to_thread.run_sync(self._start)
            return self._executor

    def _start(self) -> ProcessPoolExecutor:
        """In a thread: the first process waits until torch is imported."""
        executor = ProcessPoolExecutor(1, _context(), students.begin, (self._threads, self._most))
        executor.submit(os.getpid)
        return executor


@cache
def _context() -> BaseContext:
    """Processes forked from one that has imported torch and done nothing else: there at once."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["student.predict", students.__name__])
    return context


async def _gather(queue: asyncio.Queue[_Wish]) -> list[_Wish]:
    """The first wish and those that wait with it, or come right behind it."""
    batch = [await queue.get()]
    if queue.empty():
        await asyncio.sleep(GATHER_SECONDS)
    while not queue.empty() and sum(len(w.texts) for w in batch) < BATCH_TEXTS:
        batch.append(queue.get_nowait())
    return batch


async def _hand_out(done: Awaitable[list[Said]], wishes: list[_Wish]) -> None:
    try:
        answers = iter(await done)
    except Exception as error:
        for wish in wishes:
            if not wish.answer.done():
                wish.answer.set_exception(error)
        return
    for wish in wishes:
        own = [next(answers) for _ in wish.texts]
        if not wish.answer.done():
            wish.answer.set_result(own)
