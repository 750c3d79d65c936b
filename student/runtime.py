"""What can run a student: torch for a trained folder, another library for some exports."""

import json
from collections.abc import Sequence
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
Precision = Literal["float32", "bf16"]


class ExportRecord(Record):
    """What stands in export.json: the form of an export, how its numbers are stored, its check."""

    format: ExportFormat
    numbers: str
    finstill: str
    check: dict[str, float] = Field(default_factory=dict)


class Runtime(Protocol):
    """Scores and explains for one student. `generates`: whether it can write rationales."""

    encoder: Encoder
    generates: bool

    def scores(self, contexts: Contexts, batch_size: int) -> Tensor:
        """(texts, labels): log-probabilities of the labels, each row's probabilities sum to 1."""

    def explain(self, openings: Sequence[Opening], batch_size: int) -> list[str]:
        """Generated rationales, in order."""


class TorchRuntime:
    """A LoadedStudent on a device, in the precision its weights have."""

    def __init__(self, manifest: Manifest, loaded: LoadedStudent, device: torch.device):
        loaded.module.eval()
        self.loaded, self.device = loaded, device
        self.encoder = Encoder(manifest.student, manifest.task, loaded.tokenizer, loaded.tokens)
        self.generates = manifest.student.architecture != "classifier"
        self._scorer = TorchScorer(loaded.module, self.encoder.encode_text(""), device)
        self._explainer = Explainer(loaded, device, manifest.student.max_rationale_tokens)

    def scores(self, contexts: Contexts, batch_size: int) -> Tensor:
        """See Runtime."""
        return self._scorer.scores(contexts, batch_size)

    def explain(self, openings: Sequence[Opening], batch_size: int) -> list[str]:
        """See Runtime."""
        return self._explainer.explain(openings, batch_size)


def open_runtime(
    folder: Path, manifest: Manifest, precision: Precision, threads: int | None
) -> Runtime:
    """The runtime that the student or export in `folder` needs. See Predictor.load."""
    if threads:
        torch.set_num_threads(threads)
    record = read_export(folder)
    match record.format if record else "hf":
        case "hf" | "merged":
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            loaded = reload_student(folder, manifest, device)
            if precision == "bf16":
                loaded.module.to(torch.bfloat16)
            return TorchRuntime(manifest, loaded, device)
        case "ctranslate2":
            from student.export.ctranslate2_runtime import CTranslate2Runtime

            return CTranslate2Runtime(folder, manifest, threads or torch.get_num_threads())
        case "onnx":
            from student.export.onnx_runtime import OnnxRuntime

            return OnnxRuntime(folder, manifest, threads or torch.get_num_threads())
        case other:
            assert_never(other)


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
