"""A finished student's answers: labels by scoring every label string, rationales by generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from common.task import TaskDefinition
from student.checkpoint import Manifest, read_manifest
from student.encoding import Encoder
from student.models.load import LoadedStudent
from student.models.reload import reload_student
from student.validation import label_scores


@dataclass(frozen=True, slots=True)
class Scored:
    """
    What a student says of one text. `probabilities`: over the task's labels, in their order;
    `raw`: generated text, where anything was generated.
    """

    label: str
    probabilities: dict[str, float]
    rationale: str | None = None
    raw: str | None = None


class Predictor:
    """A loaded student. `load` reads the model/ folder of a training."""

    def __init__(self, manifest: Manifest, loaded: LoadedStudent, device: torch.device):
        self.manifest, self._loaded, self._device = manifest, loaded, device
        self._encoder = Encoder(manifest.student, manifest.task, loaded.tokenizer, loaded.tokens)
        loaded.module.eval()

    @classmethod
    def load(cls, folder: Path) -> "Predictor":
        """Read a finished student. Raises StudentError where `folder` is none."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        manifest = read_manifest(folder)
        return cls(manifest, reload_student(folder, manifest, device), device)

    @property
    def task(self) -> TaskDefinition:
        """The task the student was trained for."""
        return self.manifest.task

    def predict(
        self, texts: Sequence[str], *, rationales: bool = False, batch_size: int = 32
    ) -> list[Scored]:
        """Answers in the order of `texts`."""
        if not texts:
            return []
        examples = [self._encoder.encode_text(text) for text in texts]
        scores = label_scores(self._loaded.module, examples, self._device, batch_size)
        reasons = self._explain(texts, batch_size) if rationales else [None] * len(texts)
        names = self.task.label_names
        return [
            Scored(
                label=names[int(row.argmax())],
                probabilities=dict(zip(names, torch.softmax(row, -1).tolist(), strict=True)),
                rationale=reason,
                raw=reason,
            )
            for row, reason in zip(scores, reasons, strict=True)
        ]

    @torch.no_grad()
    def _explain(self, texts: Sequence[str], batch_size: int) -> list[str | None]:
        if self.manifest.student.architecture == "classifier":
            return [None] * len(texts)
        found: list[str | None] = []
        for begin in range(0, len(texts), batch_size):
            found += self._explain_batch(texts[begin : begin + batch_size])
        return found

    def _explain_batch(self, texts: Sequence[str]) -> list[str]:
        inputs = [self._encoder.explain_inputs(text) for text in texts]
        causal = self.manifest.student.architecture == "causal"
        rows = [[*context, *(opening if causal else ())] for context, opening in inputs]
        width = max(map(len, rows))
        pad = self._loaded.tokens.pad
        # Left padding, so that every row goes on at the same place; encoders do not mind.
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        options = {} if causal else {"decoder_start_token_id": inputs[0][1][0]}
        made = self._loaded.core.generate(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            max_new_tokens=self.manifest.student.max_rationale_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
            eos_token_id=self._loaded.tokens.end,
            **options,
        )
        fresh = made[:, width:] if causal else made[:, 1:]
        decoded = self._loaded.tokenizer.batch_decode(fresh, skip_special_tokens=True)
        return [text.strip() for text in decoded]
