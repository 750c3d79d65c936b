"""A label scorer as one ONNX graph: text in, the logits of the label trie out. No rationales."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from common.errors import MissingDependency
from student.checkpoint import Manifest
from student.encoding import Encoder
from student.export.weights import refuse
from student.models.load import LoadedStudent
from student.models.reload import reload_student
from student.scoring import ReducedHead, path_rows
from student.trie import label_trie

MODEL = "model.onnx"
OPSET = 17


class SeqToLabels(nn.Module):
    """Encoder, the decoder over the trie's paths, the label rows of the head."""

    def __init__(self, loaded: LoadedStudent, encoder: Encoder):
        super().__init__()
        self.model = loaded.core
        trie = label_trie(encoder.encode_text("").branches)
        rows, chosen = path_rows(trie, loaded.tokens.pad)
        self.rows: Tensor
        self.places: Tensor
        self.register_buffer("rows", rows)
        self.register_buffer("places", chosen.flatten().nonzero()[:, 0])
        self.head = [ReducedHead(self.model, trie.tokens)]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask (B, S) to logits (B, choices, tokens)."""
        states = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        batch, paths = ids.shape[0], len(self.rows)
        if paths > 1:
            states = states[:, None].expand(-1, paths, -1, -1).flatten(0, 1)
            mask = mask[:, None].expand(-1, paths, -1).flatten(0, 1)
        with self.head[0].at(None):
            logits = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=mask,
                decoder_input_ids=self.rows[None].expand(batch, -1, -1).flatten(0, 1),
                use_cache=False,
            ).logits
        flat = logits.reshape(batch, -1, logits.shape[-1])
        return self.head[0].columns(flat.index_select(1, self.places))


class ClassToLabels(nn.Module):
    """A classifier with its head in the order of the task's labels."""

    def __init__(self, loaded: LoadedStudent):
        super().__init__()
        self.model = loaded.core
        self.order: Tensor
        self.register_buffer("order", torch.tensor(getattr(loaded.module, "order")))  # noqa: B009

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask (B, S) to logits (B, 1, labels)."""
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits.index_select(1, self.order)[:, None]


def write_onnx(folder: Path, manifest: Manifest, target: Path, numbers: str) -> None:
    """
    Write `target`/model.onnx from the whole weights in `folder`; `numbers`: int8 or float32.

    int8: weights per channel, activations measured as they come (dynamic quantisation).
    Raises MissingDependency without onnx and onnxruntime, StudentError for a causal student.
    """
    if manifest.student.architecture == "causal":
        raise refuse("onnx", "causal", "ctranslate2")
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingDependency(
            "export --format onnx needs onnx and onnxruntime: pip install 'finstill[export]'."
        ) from error
    plain = target / "plain"
    plain.mkdir()
    _trace(folder, manifest, plain / MODEL)
    if numbers == "float32":
        onnx.save_model(onnx.load(plain / MODEL), target / MODEL)
    else:
        logging.disable(logging.WARNING)  # it asks for a shape inference that gains nothing here
        try:
            quantize_dynamic(
                plain / MODEL, target / MODEL, per_channel=True, weight_type=QuantType.QInt8
            )
        finally:
            logging.disable(logging.NOTSET)
    for file in plain.iterdir():
        file.unlink()
    plain.rmdir()


@torch.no_grad()
def _trace(folder: Path, manifest: Manifest, path: Path) -> None:
    """The graph in float32. The tracing exporter: torch's newer one takes 40 times as long."""
    eager = manifest.student.model_copy(update={"attention": "eager"})
    manifest = manifest.model_copy(update={"student": eager})
    loaded = reload_student(folder, manifest, torch.device("cpu"))
    encoder = Encoder(manifest.student, manifest.task, loaded.tokenizer, loaded.tokens)
    classifier = manifest.student.architecture == "classifier"
    graph = ClassToLabels(loaded) if classifier else SeqToLabels(loaded, encoder)
    ids = torch.full((2, 7), loaded.tokens.end)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    free: dict[str, Any] = {name: {0: "texts", 1: "tokens"} for name in ("ids", "mask")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            (ids, mask),
            str(path),
            input_names=["ids", "mask"],
            output_names=["logits"],
            dynamic_axes={**free, "logits": {0: "texts"}},
            opset_version=OPSET,
            dynamo=False,
        )
