"""A label scorer that ONNX Runtime runs: the fastest on a CPU, labels only."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import MissingDependency, StudentError
from student.checkpoint import Manifest, size_fault
from student.encoding import Encoder, known_tokens
from student.export.damage import damaged
from student.generation import Opening
from student.scoring import Contexts, in_batches, padded
from student.tokens import load_tokenizer
from student.trie import label_trie

MODEL = "model.onnx"
EXACT = "exact.onnx"
MARGIN = "second_look_below"
EXACT_BYTES = "second_look_bytes"


class OnnxRuntime:
    """
    See student.runtime.Runtime. An int8 export carries its student in float32 as well: texts whose
    label int8 leaves in doubt are scored a second time, by that.
    """

    generates = False

    def __init__(self, folder: Path, manifest: Manifest, threads: int):
        tokenizer = load_tokenizer(str(folder))
        self._folder, self._threads = folder, threads
        tokens = known_tokens(manifest.tokens, tokenizer, folder)
        self.encoder = Encoder(manifest.student, manifest.task, tokenizer, tokens)
        self._session = open_session(folder / MODEL, threads)
        properties = self._session.get_modelmeta().custom_metadata_map
        self._margin = float(properties.get(MARGIN, 0.0))
        if self._margin > 0:
            _require_exact(folder / EXACT, properties.get(EXACT_BYTES))

    def scores(self, contexts: Contexts, batch_size: int) -> Tensor:
        """See Runtime."""
        found = label_scores(self._session, self.encoder, contexts, batch_size)
        doubtful = (leads(found, found.argmax(-1)) < self._margin).nonzero()[:, 0].tolist()
        if doubtful:
            again = [contexts[i] for i in doubtful]
            found[doubtful] = label_scores(self._exact, self.encoder, again, batch_size)
        return found

    def explain(self, openings: Sequence[Opening], batch_size: int) -> list[str]:
        """An ONNX export holds no decoding loop. Raises StudentError."""
        raise StudentError(
            "an ONNX export scores labels only; ask the student's model/ folder or a CTranslate2 "
            "export for rationales."
        )

    @cached_property
    def _exact(self) -> Any:
        """Read when the first text needs it."""
        return open_session(self._folder / EXACT, self._threads)


def open_session(path: Path, threads: int) -> Any:
    """
    The graph in `path`, ready to run.

    Raises MissingDependency without onnxruntime, StudentError where the file is missing or damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(
            f"'{path.parent}' is an ONNX export: pip install 'finstill[export]' to run it."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions share no other base
        raise damaged(path, error) from error


def _require_exact(path: Path, size: str | None) -> None:
    """Without it a folder would answer, until the first text whose label int8 leaves in doubt."""
    if fault := size_fault(path, int(size) if size else None):
        raise damaged(path, f"it {fault}")


def label_scores(session: Any, encoder: Encoder, contexts: Contexts, batch_size: int) -> Tensor:
    """(texts, labels): log-probabilities of the labels, in the order given."""
    classifier = encoder.config.architecture == "classifier"
    trie = None if classifier else label_trie(encoder.encode_text("").branches)

    def score(part: Contexts) -> Tensor:
        ids, mask = padded(part, encoder.tokens.pad)
        (logits,) = session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})
        found = torch.from_numpy(logits)
        return trie.label_logs(found) if trie else torch.log_softmax(found[:, 0], dim=-1)

    return in_batches(contexts, batch_size, score)


def leads(scores: Tensor, labels: Tensor) -> Tensor:
    """(texts,): by how much the probability of each text's label is above the next likeliest."""
    chances, own = scores.exp(), torch.nn.functional.one_hot(labels, scores.shape[1]).bool()
    return chances[own] - chances.masked_fill(own, -1.0).amax(-1)
