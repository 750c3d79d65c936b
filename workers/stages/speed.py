"""How fast a trained system answers on this machine, measured beside its evaluation."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from common.config.run import TfidfBaseline
from common.data.store import read_slice
from common.records import EvaluationReport, Example, Scalar, SystemCard
from workers.provenance import hardware
from workers.run_directory import read_json, write_json
from workers.stages.context import StageContext

SINGLE_TEXTS = 200  # enough for a p99 with two texts beyond it
MANY_TEXTS = 1024
_SECONDS = 10.0  # for each of the two measurements: a slow student is measured on fewer texts
_WARM_UP = 3

Ask = Callable[[Sequence[str]], object]


def measure_speed(context: StageContext, name: str) -> None:
    """
    Add measured speed, price and hardware to a system's report.

    Latency is that of one text at a time, throughput that of batches; labels only, model loaded.
    Other work on the machine slows both down.
    """
    path = context.run.evaluation(name)
    report = EvaluationReport.model_validate(read_json(path))
    update = {**_trained_speed(context, name), "hardware": named_hardware(hardware())}
    if isinstance(context.config.baselines.get(name), TfidfBaseline):
        update["notes"] = [*report.system.notes, "its speed includes fitting on the training part"]
    card = priced(report.system.model_copy(update=update), context.config.evaluation.usd_per_hour)
    report = report.model_copy(update={"system": card})
    write_json(path, report.model_dump(mode="json"))


def priced(card: SystemCard, usd_per_hour: float | None) -> SystemCard:
    """With the price of 1,000 texts on a machine that costs so much an hour."""
    if usd_per_hour is None or not card.predict_texts or card.predict_seconds is None:
        return card
    usd = usd_per_hour / 3600 * card.predict_seconds / card.predict_texts * 1000
    return card.model_copy(update={"usd_per_1000": usd})


def named_hardware(facts: dict[str, Scalar]) -> str:
    """ "AMD EPYC 9554, 2 cores, 23.4 GB"."""
    return f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB"


def _trained_speed(context: StageContext, name: str) -> dict[str, object]:
    if name not in context.config.trained_systems:
        return {}
    from student.predict import Predictor

    texts = [e.text for e in read_slice(context.run.part("test"), 0, MANY_TEXTS, Example)]
    predictor = Predictor.load(context.run.system(name) / "model", precision="as-trained")
    batch = context.config.evaluation.batch_size
    summary = read_json(context.run.training_summary(name)) or {}
    found: dict[str, object] = dict(latencies(predictor.predict, texts))
    found |= throughput(lambda rows: predictor.predict(rows, batch_size=batch), texts, 4 * batch)
    if summary.get("seconds"):
        found["training_texts_per_second"] = summary["examples_seen"] / summary["seconds"]
    return found


def latencies(ask: Ask, texts: Sequence[str], seconds: float = _SECONDS) -> dict[str, float | int]:
    """
    Percentiles of the time that one text takes, in milliseconds; the first few do not count.

    A percentile is given where two texts or more lie beyond it: p99 from 200, p95 from 40.
    """
    for text in texts[:_WARM_UP]:
        ask([text])
    taken: list[float] = []
    for text in texts[:SINGLE_TEXTS]:
        begun = time.perf_counter()
        ask([text])
        taken.append(time.perf_counter() - begun)
        if sum(taken) > seconds:
            break
    needed = {50: 1, 95: 40, 99: SINGLE_TEXTS}
    return {
        **{
            f"latency_p{share}_ms": float(1000 * np.percentile(taken, share))
            for share, least in needed.items()
            if len(taken) >= least
        },
        "latency_texts": len(taken),
    }


def throughput(
    ask: Ask, texts: Sequence[str], at_once: int, seconds: float = _SECONDS
) -> dict[str, float | int]:
    """How many texts were answered in how many seconds, `at_once` handed over together."""
    done, begun = 0, time.perf_counter()
    while done < len(texts) and time.perf_counter() - begun < seconds:
        ask(texts[done : done + at_once])
        done = min(done + at_once, len(texts))
    return {"predict_texts": done, "predict_seconds": time.perf_counter() - begun}
