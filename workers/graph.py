"""What a run consists of: its stages, their order, and the fingerprint each output must carry."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from common.config import ComparisonConfig, JobConfig, RunConfig
from common.config.data import FileData, FpbData
from common.config.run import TrainedBaseline
from common.config.teacher import ClaudeTeacher, RecordedTeacher
from common.fingerprint import digest, digest_path
from common.task import CONFIGS, load_task
from workers.run_directory import RunDirectory, read_json, stage_fingerprint

Queue = Literal["label", "train", "evaluate"]
QUEUES: tuple[Queue, ...] = ("label", "train", "evaluate")


@dataclass(frozen=True)
class Stage:
    """One step of a run; `needs` name the stages whose outputs it reads."""

    name: str
    queue: Queue
    needs: tuple[str, ...]
    title: str

    @property
    def verb(self) -> str:
        """`train` of `train:student`."""
        return self.name.partition(":")[0]

    @property
    def system(self) -> str:
        """`student` of `train:student`, empty where there is none."""
        return self.name.partition(":")[2]


COMPARE = Stage("compare", "evaluate", (), "Compare the runs")


def stages_of(config: JobConfig) -> dict[str, Stage]:
    """Every stage by name, in an order in which they can run."""
    if isinstance(config, ComparisonConfig):
        return {COMPARE.name: COMPARE}
    stages = [Stage("prepare", "label", (), "Prepare the data")]
    if config.all_teachers:
        stages.append(Stage("probe", "label", ("prepare",), "Probe the teacher"))
        if any(isinstance(t, ClaudeTeacher) and t.mode == "batch" for t in config.all_teachers):
            stages.append(Stage("batch", "label", ("probe",), "Ask in batches"))
        stages.append(Stage("label", "label", (stages[-1].name,), "Ask the teacher"))
    stages.append(Stage("collect", "label", (stages[-1].name,), "Collect training pairs"))
    for name in config.trained_systems:
        stages.append(Stage(f"train:{name}", "train", ("collect",), f"Train {name}"))
    trained = config.trained_systems.keys()
    for name in system_names(config):
        needs = f"train:{name}" if name in trained else "collect"
        stages.append(Stage(f"evaluate:{name}", "evaluate", (needs,), f"Evaluate {name}"))
    judged = tuple(s.name for s in stages if s.verb == "evaluate")
    stages.append(Stage("report", "evaluate", judged or ("collect",), "Write the report"))
    return {stage.name: stage for stage in stages}


def stages_until(config: JobConfig, until: str) -> list[Stage]:
    """
    The stages that lead to all stages of the kind `until`: label, train, evaluate, report; of a
    comparison its one stage.
    """
    if isinstance(config, ComparisonConfig):
        return [COMPARE]
    order = ("label", "train", "evaluate", "report")
    wanted = {"prepare", "probe", "batch", "collect", *order[: order.index(until) + 1]}
    return [stage for stage in stages_of(config).values() if stage.verb in wanted]


def system_names(config: RunConfig) -> list[str]:
    """The systems that are judged: the student first, then the baselines as listed."""
    return (["student"] if config.student else []) + list(config.baselines)


def fingerprints(config: RunConfig, corrections: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    What the marker of each finished stage must say; changes with anything the stage reads.

    `corrections` are those the run goes by. What a teacher said, and a student of one teacher, do
    not depend on gold and stay.
    """
    plain = _chain(config, None)
    if not corrections:
        return plain
    corrected = _chain(config, digest(dict(corrections)))
    stages = stages_of(config).values()
    return {s.name: (corrected if _reads_gold(config, s) else plain)[s.name] for s in stages}


def _chain(config: RunConfig, gold: str | None) -> dict[str, str]:
    known: dict[str, str] = {}
    for stage in stages_of(config).values():
        inputs = [known[name] for name in stage.needs]
        reads = _reads(config, stage)
        if stage.verb == "prepare" and gold:
            reads = [reads, gold]
        known[stage.name] = stage_fingerprint(stage.name, reads, inputs)
    return known


def _reads_gold(config: RunConfig, stage: Stage) -> bool:
    """Several teachers are weighed by the gold of the probe; one alone is taken at its word."""
    if stage.verb == "train":
        _, training = config.trained_systems[stage.system]
        return training.labels == "gold" or len(config.all_teachers) > 1
    return stage.verb not in ("batch", "label")


def fingerprint(
    config: RunConfig, stage: str, corrections: Mapping[str, str] | None = None
) -> str:  # fmt: skip
    """The fingerprint of one stage."""
    return fingerprints(config, corrections)[stage]


def wanted_fingerprints(run: RunDirectory, config: JobConfig) -> dict[str, str]:
    """The fingerprints by what lies on disk now: people's corrections, the runs to be compared."""
    if isinstance(config, RunConfig):
        return fingerprints(config, run.corrections)
    folders = [RunDirectory(run.root.parent / name) for name in config.runs]
    markers = [path for folder in folders for path in sorted(folder.markers("evaluate"))]
    judged = [read_json(path) for path in markers if _compared(config, path)]
    inputs = [str(marker["fingerprint"]) for marker in judged if marker]
    return {COMPARE.name: stage_fingerprint(COMPARE.name, config.model_dump(mode="json"), inputs)}


def _compared(config: ComparisonConfig, marker: Path) -> bool:
    return not config.only or marker.stem.partition(".")[2] in config.only


def is_done(run: RunDirectory, config: JobConfig, stage: str) -> bool:
    """Whether a stage's output is on disk and made from this very input."""
    return run.is_done(stage, wanted_fingerprints(run, config)[stage])


def ready_stages(run: RunDirectory, config: JobConfig) -> list[Stage]:
    """
    The stages that are not done and whose needs are, and the needs of those, to the root.

    A student can be done while the gold it will be judged by is being made anew.
    """
    stages, wanted = stages_of(config), wanted_fingerprints(run, config)
    done = {name for name in stages if run.is_done(name, wanted[name])}
    settled: set[str] = set()
    for name, stage in stages.items():
        if name in done and settled.issuperset(stage.needs):
            settled.add(name)
    return [
        stage
        for name, stage in stages.items()
        if name not in done and settled.issuperset(stage.needs)
    ]


def _reads(config: RunConfig, stage: Stage) -> Any:
    if stage.verb == "prepare":
        task = load_task(config.task).model_dump(mode="json")
        return [config.data.model_dump(mode="json"), _data_digests(config), config.seed, task]
    if stage.verb in ("probe", "batch", "label", "collect"):
        parts: list[BaseModel] = [config.labelling, config.aggregation, *config.all_teachers]
        files = [_content(t.answers) for t in config.all_teachers if isinstance(t, RecordedTeacher)]
        return [*(p.model_dump(mode="json") for p in parts), files, _content(CONFIGS / "prompts")]
    if stage.verb == "train":
        student, training = config.trained_systems[stage.system]
        return [student.model_dump(mode="json"), training.model_dump(mode="json"),
                _content(Path(student.model))]  # fmt: skip
    if stage.verb == "evaluate":
        baseline = config.baselines.get(stage.system)
        own: Any = baseline.model_dump(mode="json") if baseline else None
        if isinstance(baseline, TrainedBaseline):
            own = baseline.title
        return [own, config.evaluation.model_dump(mode="json"), config.seed]
    return [config.evaluation.model_dump(mode="json"), config.description]


def _data_digests(config: RunConfig) -> list[str]:
    data = config.data
    if isinstance(data, FpbData):
        return [_content(data.path)] if data.path else []
    if isinstance(data, FileData):
        return [_content(data.path), *([_content(data.test_path)] if data.test_path else [])]
    return []


def _content(path: Path) -> str:
    """Digest of a file or folder; empty where there is none (hub names, vanished files)."""
    if not path.exists():
        return ""
    stamp = max(p.stat().st_mtime_ns for p in [path, *path.rglob("*")])
    return _content_at(path, stamp)


@lru_cache(maxsize=256)
def _content_at(path: Path, stamp: int) -> str:
    return digest_path(path)
