"""
Students in memory, answering in batches; trained ones and exports of them alike.

One thread does all torch work: two would fight for the cores. Requests that arrive while a batch is
being computed wait together and make the next batch.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workers.api.problems import Problem

if TYPE_CHECKING:
    from student.predict import Predictor, Scored

MOST_WAITING_TEXTS = 4096
BATCH_TEXTS = 64  # as efficient as more, and the next texts arrive while these are computed
GATHER_SECONDS = 0.002
ANSWER_SECONDS = 60.0


@dataclass
class _Wish:
    texts: Sequence[str]
    rationales: bool
    answer: "asyncio.Future[list[Scored]]"


class PredictorPool:
    """Up to `most_models` students; the least recently used one makes room."""

    def __init__(self, runs: Path, threads: int, most_models: int):
        self._runs, self._threads, self._most = runs, threads, most_models
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._models: OrderedDict[Path, Predictor] = OrderedDict()
        self._stamps: dict[Path, int] = {}
        self._queues: dict[Path, asyncio.Queue[_Wish]] = {}
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self.waiting = 0

    @property
    def loaded(self) -> list[str]:
        """`run/system`, or `run/system/export`, of every student in memory; last used last."""
        return [self._name(folder) for folder in self._models]

    def _name(self, folder: Path) -> str:
        run, _, system, *kind = folder.relative_to(self._runs).parts
        return "/".join([run, system, *(name for name in kind if name not in ("model", "exports"))])

    async def predict(self, folder: Path, texts: Sequence[str], rationales: bool) -> "list[Scored]":
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
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _queue(self, folder: Path) -> asyncio.Queue[_Wish]:
        if folder not in self._queues:
            self._queues[folder] = asyncio.Queue()
        task = self._tasks.get(folder)
        if task is None or task.done():
            self._tasks[folder] = asyncio.create_task(self._serve(folder))
        return self._queues[folder]

    async def _serve(self, folder: Path) -> None:
        queue = self._queues[folder]
        loop = asyncio.get_running_loop()
        while True:
            batch = await _gather(queue)
            for rationales in (False, True):
                wishes = [w for w in batch if w.rationales is rationales and not w.answer.done()]
                if wishes:
                    texts = [text for wish in wishes for text in wish.texts]
                    done = loop.run_in_executor(
                        self._executor, self._compute, folder, texts, rationales
                    )
                    await _hand_out(done, wishes)

    def _compute(self, folder: Path, texts: list[str], rationales: bool) -> "list[Scored]":
        return self._model(folder).predict(texts, rationales=rationales)

    def _model(self, folder: Path) -> "Predictor":
        """In the one thread: loaded, loaded again when trained again, or remembered."""
        from student.predict import Predictor

        stamp = max((f.stat().st_mtime_ns for f in folder.iterdir()), default=0)
        if folder not in self._models or self._stamps[folder] != stamp:
            self._models.pop(folder, None)
            while len(self._models) >= self._most:
                self._models.popitem(last=False)
            self._models[folder] = Predictor.load(folder, threads=self._threads)
            self._stamps[folder] = stamp
        self._models.move_to_end(folder)
        return self._models[folder]


async def _gather(queue: asyncio.Queue[_Wish]) -> list[_Wish]:
    """The first wish and those that wait with it, or come right behind it."""
    batch = [await queue.get()]
    if queue.empty():
        await asyncio.sleep(GATHER_SECONDS)
    while not queue.empty() and sum(len(w.texts) for w in batch) < BATCH_TEXTS:
        batch.append(queue.get_nowait())
    return batch


async def _hand_out(done: "asyncio.Future[list[Scored]]", wishes: list[_Wish]) -> None:
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
