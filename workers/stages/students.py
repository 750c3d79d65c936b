"""Training a system and judging it on the test part."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from common.config.run import MajorityBaseline, TfidfBaseline, TrainedBaseline
from common.config.student import TINY
from common.data.store import read_records, write_records
from common.errors import JobCancelled
from common.evaluation.evaluate import evaluate_system
from common.evaluation.explained import explained_ids
from common.records import Example, Prediction, SystemCard, TrainingPair
from workers.job_records import NOTE, STEPS
from workers.live_curve import LiveCurve
from workers.run_directory import read_json, write_json
from workers.stages.context import StageContext

if TYPE_CHECKING:
    from student.progress import TrainingSummary


def train_system(context: StageContext, name: str) -> None:
    """
    Train one system on the pairs its config asks for; resumes from its last checkpoint.

    Raises JobCancelled (checkpoint kept) and StudentError.
    """
    from student.progress import TrainingHooks, TrainingProgress
    from student.train import train_student

    student, training = context.config.trained_systems[name]
    curve = LiveCurve(context.run.live_curve(name))
    written = _checkpoints(context, name)
    shown: dict[str, Any] = {}
    planned = 0

    def progress(now: TrainingProgress) -> None:
        nonlocal written, shown, planned
        curve.add(now)
        seconds = now.elapsed_seconds / max(1, now.step)
        eta = now.eta_seconds
        planned, shown = now.total_steps, {"loss": now.loss, "eta_seconds": eta, "seconds": seconds}
        shown |= {NOTE: "; ".join(now.notes)} if now.notes else {}
        context.report(now.step, planned, STEPS, shown)
        if (newer := _checkpoints(context, name)) != written:
            written = newer
            context.checkpoint_written(name)

    try:
        summary = train_student(
            student=student,
            training=training,
            task=context.task,
            train=pairs(context, "train", training.labels),
            validation=pairs(context, "validation", training.labels),
            folder=context.run.system(name),
            hooks=TrainingHooks(progress=progress, cancelled=context.cancelled),
            threads=context.settings.threads,
        )
    except JobCancelled:  # its last checkpoint is written after the last progress
        context.checkpoint_written(name)
        raise
    write_json(context.run.training_summary(name), summary.model_dump(mode="json"))
    curve.end()
    context.report(summary.steps, max(planned, summary.steps), STEPS, _ended(shown, summary))


def _ended(shown: dict[str, Any], summary: "TrainingSummary") -> dict[str, Any]:
    """The last figures of a training that has ended: no time is left, whatever was planned."""
    early = [f"stopped early, best at step {summary.best_step}"] if summary.stopped_early else []
    notes = "; ".join([*summary.notes, *early])
    figures = {name: value for name, value in shown.items() if name not in ("eta_seconds", NOTE)}
    return {**figures, **({NOTE: notes} if notes else {})}


def _checkpoints(context: StageContext, name: str) -> set[str]:
    return {path.name for path in context.run.checkpoints(name).glob("checkpoint-*")}


def evaluate_system_on_test(context: StageContext, name: str) -> None:
    """Predict the test part, then judge: the same texts and the same function for all."""
    run, config = context.run, context.config
    test = list(read_records(run.part("test"), Example))
    context.report(0, len(test), "texts")
    begun = time.perf_counter()
    predictions = predict_examples(context, name, test)
    card = _card(context, name, len(test), time.perf_counter() - begun)
    write_records(run.predictions(name), predictions, Prediction)
    split = read_json(run.split_file)
    report = evaluate_system(
        card,
        test,
        predictions,
        context.task,
        config.evaluation,
        config.data.name or config.data.kind,
        split["fingerprint"],
        near_duplicates=split["near_duplicates"]["ids"],
    )
    write_json(run.evaluation(name), report.model_dump(mode="json"))
    context.report(len(test), len(test), "texts")


def pairs(context: StageContext, part: str, labels: str) -> list[TrainingPair]:
    """The training pairs of a part, labelled by `teacher` or `gold`."""
    return list(read_records(context.run.pairs(part, labels), TrainingPair))


def predict_examples(context: StageContext, name: str, test: Sequence[Example]) -> list[Prediction]:
    """What a system of the run says of any texts, its test part or others."""
    from student.baselines import predict_majority, predict_tfidf

    baseline = context.config.baselines.get(name)
    labels = context.task.label_names
    if isinstance(baseline, MajorityBaseline):
        return predict_majority(_any_pairs(context), test, labels)
    if isinstance(baseline, TfidfBaseline):
        return predict_tfidf(
            pairs(context, "train", baseline.labels), test, labels, context.config.seed
        )
    return _predict_trained(context, name, test)


def _any_pairs(context: StageContext) -> list[TrainingPair]:
    return pairs(context, "train", "teacher" if context.config.all_teachers else "gold")


def _predict_trained(context: StageContext, name: str, test: Sequence[Example]) -> list[Prediction]:
    """Labels for all texts, rationales for a sample of them: see `explained_ids`."""
    from student.predict import Predictor

    settings = context.config.evaluation
    predictor = Predictor.load(context.run.system(name) / "model", precision="as-trained")
    count = settings.rationale_rows if predictor.explains else 0
    wanted = explained_ids(test, count, settings.seed)
    chosen = [example for example in test if example.id in wanted]
    batch = settings.batch_size
    scored = predictor.predict([example.text for example in test], batch_size=batch)
    reasons = predictor.rationales([example.text for example in chosen], batch_size=batch)
    reason_of = {e.id: reason for e, reason in zip(chosen, reasons, strict=True)}
    return [
        Prediction(
            example_id=example.id,
            label=row.label,
            probabilities=row.probabilities,
            rationale=reason_of.get(example.id),
            raw=row.raw,
        )
        for example, row in zip(test, scored, strict=True)
    ]


def _card(context: StageContext, name: str, texts: int, seconds: float) -> SystemCard:
    baseline = context.config.baselines.get(name)
    facts: dict[str, Any] = {"training_examples": len(_any_pairs(context))}
    if baseline is None or isinstance(baseline, TrainedBaseline):
        facts = _trained_facts(context, name)
    elif isinstance(baseline, TfidfBaseline):
        facts = {"training_examples": len(pairs(context, "train", baseline.labels))}
    return SystemCard(
        name=name,
        role="student" if baseline is None else "baseline",
        title=_title(context, name),
        predict_seconds=seconds,
        predict_texts=texts,
        **facts,
    )


def _trained_facts(context: StageContext, name: str) -> dict[str, Any]:
    summary = read_json(context.run.training_summary(name))
    student, training = context.config.trained_systems[name]
    model = context.run.system(name) / "model"
    return {
        "tiny": student.model == TINY or bool(summary.get("tiny")),
        "parameters": summary["parameters"],
        "trainable_parameters": summary["trainable_parameters"],
        "disk_bytes": sum(f.stat().st_size for f in model.rglob("*") if f.is_file()),
        "training_examples": len(pairs(context, "train", training.labels)),
        "tokens_seen": summary["tokens_seen"],
        "training_seconds": summary["seconds"],
        "peak_memory_bytes": summary.get("peak_memory_bytes"),
        "seed": training.seed,
        "notes": summary.get("notes", []),
    }


def _title(context: StageContext, name: str) -> str:
    baseline = context.config.baselines.get(name)
    if isinstance(baseline, MajorityBaseline):
        return "Majority class"
    if isinstance(baseline, TfidfBaseline):
        return f"TF-IDF + logistic regression ({baseline.labels} labels)"
    if isinstance(baseline, TrainedBaseline) and baseline.title:
        return baseline.title
    student, _ = context.config.trained_systems[name]
    family = student.tiny.family.upper().replace("LLAMA", "Llama") if student.tiny else ""
    what = f"{family} (tiny)" if student.tiny else _short(student.model)
    how = "step by step" if _has_learnt_reasons(context, name) else "labels only"
    parts = [what, student.quantization or "", "LoRA" if student.lora else "", how]
    return ", ".join(part for part in parts if part)


def _has_learnt_reasons(context: StageContext, name: str) -> bool:
    """Whether rationales were asked for and the teachers' answers hold any."""
    student, training = context.config.trained_systems[name]
    asked = training.teaches_rationales(student.architecture)
    return asked and any(p.rationale for p in pairs(context, "train", "teacher"))


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]
