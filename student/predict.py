"""
A finished student's answers: labels by scoring every label string, rationales by generation.

Works on the model/ folder of a training and on every folder `finstill export` writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.task import TaskDefinition
from student.calibration import calibrated, read_calibration
from student.checkpoint import Manifest, read_manifest
from student.runtime import Precision, Runtime, open_runtime


@dataclass(frozen=True, slots=True)
class Scored:
    """
    What a student says of one text. `probabilities`: calibrated, over the task's labels in their
    order; `rationale`: why, where it was asked for and the student has learnt to say it; `raw`:
    the generated text, where anything was generated.
    """

    label: str
    probabilities: dict[str, float]
    rationale: str | None = None
    raw: str | None = None


class Predictor:
    """A loaded student. Not for use from several threads at once."""

    def __init__(self, manifest: Manifest, runtime: Runtime, temperature: float = 1.0):
        self.manifest, self._runtime, self._temperature = manifest, runtime, temperature

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> "Predictor":
        """
        Read a finished student or an export of one.

        `precision`: float32; bf16, everything in bfloat16: faster where the processor knows it
        (AVX512-BF16, AMX, a GPU), the same label but for near ties; as-trained, an adapter and its
        base as their training held them and as its validation scored, so that what could be trained
        can be used (whole weights are float32). CTranslate2 and ONNX exports have their own.
        `threads` sets how many threads torch (or the export's runtime) computes with.
        Raises StudentError where `folder` holds no student, MissingDependency for an export whose
        runtime is not installed.
        """
        manifest = read_manifest(folder)
        runtime = open_runtime(folder, manifest, precision, threads)
        return cls(manifest, runtime, read_calibration(folder).temperature)

    @property
    def task(self) -> TaskDefinition:
        """The task the student was trained for."""
        return self.manifest.task

    @property
    def explains(self) -> bool:
        """Whether it can write rationales: it has learnt them, and this form of it generates."""
        return self.manifest.explains and self._runtime.generates

    @property
    def silence(self) -> str | None:
        """Why it writes no rationales and what does, in one sentence; None where it writes them."""
        if self.explains:
            return None
        if self.manifest.explains:
            return (
                "this form of the student writes no rationales; its run does, and so does an hf or "
                "merged export of it."
            )
        if self.manifest.student.architecture == "classifier":
            return (
                "a classifier writes no rationales; a seq2seq or causal student trained step by "
                "step does."
            )
        return (
            "this student has learnt labels only; one trained with a teacher's rationales "
            "(training.rationale_weight above 0) writes them."
        )

    def scores(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """(texts, labels): log-probabilities as the student gives them, not calibrated."""
        contexts = self._runtime.encoder.text_contexts(texts)
        return self._runtime.scores(contexts, batch_size)

    def rationales(self, texts: Sequence[str], batch_size: int = 32) -> list[str | None]:
        """Rationales in the order of `texts`; None from a student that has learnt none."""
        if not self.explains or not texts:
            return [None] * len(texts)
        openings = [self._runtime.encoder.explain_inputs(text) for text in texts]
        return list(self._runtime.explain(openings, batch_size))

    def predict(
        self, texts: Sequence[str], *, rationales: bool = False, batch_size: int = 32
    ) -> list[Scored]:
        """
        Answers in the order of `texts`. A rationale is generated from the text alone, not from the
        label beside it, and may argue for another.
        """
        if not texts:
            return []
        chances = calibrated(self.scores(texts, batch_size), self._temperature).exp().tolist()
        reasons = self.rationales(texts, batch_size) if rationales else [None] * len(texts)
        names = self.task.label_names
        return [
            Scored(
                label=names[row.index(max(row))],
                probabilities=dict(zip(names, row, strict=True)),
                rationale=reason,
                raw=reason,
            )
            for row, reason in zip(chances, reasons, strict=True)
        ]
