"""What can run a student: torch for a trained folder, another library for some exports."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol, assert_never

import torch
from pydantic import Field
from torch import Tensor

from common.errors import StudentError
from common.records import Record
from student.checkpoint import Manifest
from student.encoding import Encoder
from student.generation import Explainer, Opening
from student.models.load import LoadedStudent
from student.models.reload import reload_student
from student.scoring import Contexts, TorchScorer

EXPORT = "export.json"
ExportFormat = Literal["hf", "merged", "ctranslate2", "onnx"]
Precision = Literal["as-trained", "float32", "bf16"]
Part = Literal["validation", "train"]


class ExportRecord(Record):
    """
    What stands in export.json: the form of an export, how its numbers are stored, its check, and
    of which part of the run's texts that was made (None: not told, by an earlier version).
    """

    format: ExportFormat
    numbers: str
    finstill: str
    check: dict[str, float] = Field(default_factory=dict)
    part: Part | None = None

    @property
    def generates(self) -> bool:
        """Whether this form can write rationales: ONNX holds only what scores labels."""
        return self.format != "onnx"

    @property
    def texts(self) -> str:
        """How the texts of the check are called: training texts are no validation."""
        names = {"validation": "validation texts", "train": "training texts"}
        return names.get(self.part or "", "texts")


class Runtime(Protocol):
    """Scores and explains for one student. `generates`: whether it can write rationales."""

    encoder: Encoder
    generates: bool

    def scores(self, contexts: Contexts, batch_size: int) -> Tensor:
        """(texts, labels): log-probabilities of the labels, each row's probabilities sum to 1."""

    def explain(self, openings: Sequence[Opening], batch_size: int) -> list[str]:
        """Generated rationales, in order."""


class TorchRuntime:
    """
    A LoadedStudent on a device, in the precision its weights have.

    `autocast`: weights of several types meet, and products are in bfloat16, as in a bf16 training.
    """

    def __init__(
        self, manifest: Manifest, loaded: LoadedStudent, device: torch.device, autocast: bool
    ):
        loaded.module.eval()
        self.loaded, self.device, self._autocast = loaded, device, autocast
        self.encoder = Encoder(manifest.student, manifest.task, loaded.tokenizer, loaded.tokens)
        self.generates = manifest.student.architecture != "classifier"
        self._scorer = TorchScorer(loaded.module, self.encoder.encode_text(""), device)
        self._explainer = Explainer(loaded, device, manifest.student.max_rationale_tokens)

    def scores(self, contexts: Contexts, batch_size: int) -> Tensor:
        """See Runtime."""
        with self._precision():
            return self._scorer.scores(contexts, batch_size)

    def explain(self, openings: Sequence[Opening], batch_size: int) -> list[str]:
        """See Runtime."""
        with self._precision():
            return self._explainer.explain(openings, batch_size)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._autocast)


def open_runtime(
    folder: Path, manifest: Manifest, precision: Precision, threads: int | None
) -> Runtime:
    """The runtime that the student or export in `folder` needs. See Predictor.load."""
    if threads:
        torch.set_num_threads(threads)
    record = read_export(folder)
    match record.format if record else "hf":
        case "hf" | "merged":
            return _torch_runtime(folder, manifest, precision)
        case "ctranslate2":
            from student.export.ctranslate2_runtime import CTranslate2Runtime

            return CTranslate2Runtime(folder, manifest, threads or torch.get_num_threads())
        case "onnx":
            from student.export.onnx_runtime import OnnxRuntime

            return OnnxRuntime(folder, manifest, threads or torch.get_num_threads())
        case other:
            assert_never(other)


def _torch_runtime(folder: Path, manifest: Manifest, precision: Precision) -> TorchRuntime:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Only the frozen base of an adapter is held in bfloat16 by a training; see Plan.
    mixed = bool(manifest.student.lora) and manifest.training.precision == "bf16"
    autocast = mixed and precision == "as-trained"
    half = autocast or precision == "bf16"
    loaded = reload_student(folder, manifest, device, torch.bfloat16 if half else torch.float32)
    if precision == "bf16":
        halve(loaded.module)
    return TorchRuntime(manifest, loaded, device, autocast)


def halve(module: torch.nn.Module) -> None:
    """
    Turn all weights to bfloat16, adapters and norms too.

    Buffers stay: in bfloat16 the angles of rotary positions would be off by 0.3 (Llama 3, at 171).
    """
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)


def own_numbers(folder: Path) -> str | None:
    """What an export computes in that leaves no choice of a precision; None where there is one."""
    record = read_export(folder)
    return record.numbers if record and record.format in ("ctranslate2", "onnx") else None


def read_export(folder: Path) -> ExportRecord | None:
    """The record of an export; None for the folder of a training. Raises StudentError."""
    path = folder / EXPORT
    try:
        return ExportRecord.model_validate(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise StudentError(
            f"'{path}' cannot be read ({type(error).__name__}); expected the record that "
            "`finstill export` wrote: export the student again."
        ) from error
