"""A label scorer that ONNX Runtime runs: the fastest on a CPU, labels only."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.errors import MissingDependency, StudentError
from student.checkpoint import Manifest
from student.encoding import Encoder, TaskTokens
from student.export.onnx_convert import MODEL
from student.generation import Opening
from student.scoring import Contexts, in_batches, padded
from student.tokens import load_tokenizer
from student.trie import label_trie


class OnnxRuntime:
    """See student.runtime.Runtime."""

    generates = False

    def __init__(self, folder: Path, manifest: Manifest, threads: int):
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependency(
                f"'{folder}' is an ONNX export: pip install 'finstill[export]' to run it."
            ) from error
        tokenizer = load_tokenizer(str(folder))
        self._tokens = TaskTokens(**manifest.tokens)
        self.encoder = Encoder(manifest.student, manifest.task, tokenizer, self._tokens)
        classifier = manifest.student.architecture == "classifier"
        branches = self.encoder.encode_text("").branches
        self._trie = None if classifier else label_trie(branches)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self._session = onnxruntime.InferenceSession(
            str(folder / MODEL), options, providers=["CPUExecutionProvider"]
        )

    def scores(self, contexts: Contexts, batch_size: int) -> Tensor:
        """See Runtime."""
        return in_batches(contexts, batch_size, self._batch)

    def explain(self, openings: Sequence[Opening], batch_size: int) -> list[str]:
        """An ONNX export holds no decoding loop. Raises StudentError."""
        raise StudentError(
            "an ONNX export scores labels only; ask the student's model/ folder or a CTranslate2 "
            "export for rationales."
        )

    def _batch(self, contexts: Contexts) -> Tensor:
        ids, mask = padded(contexts, self._tokens.pad)
        (logits,) = self._session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})
        found = torch.from_numpy(logits)
        if self._trie is None:
            return torch.log_softmax(found[:, 0], dim=-1)
        return self._trie.label_logs(found)
