"""A label scorer as one ONNX graph: text in, the logits of the label trie out. No rationales."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from common.errors import MissingDependency
from student.checkpoint import Manifest
from student.encoding import Encoder
from student.export.onnx_runtime import (
    EXACT,
    EXACT_BYTES,
    MARGIN,
    MODEL,
    label_scores,
    leads,
    open_session,
)
from student.export.weights import refuse
from student.models.cross import states_as_keys
from student.models.load import LoadedStudent
from student.models.reload import reload_student
from student.scoring import ReducedHead, padded, path_rows
from student.trie import label_trie

OPSET = 17
TEXTS_SEEN = 64
CHECK_BATCH = 32


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
        with self.head[0].at(None), states_as_keys(self.model):
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


def write_onnx(
    folder: Path, manifest: Manifest, target: Path, numbers: str, texts: Sequence[str]
) -> None:
    """
    Write `target`/model.onnx from the whole weights in `folder`; `numbers`: int8 or float32.

    int8: see onnx_int8; the sizes of the channels are read from `texts` (the first TEXTS_SEEN).
    Beside it stands exact.onnx in float32 for the texts whose two likeliest labels int8 cannot tell
    apart: nearer to each other than the largest change of a lead that it made on `texts`.
    Raises MissingDependency without onnx and onnxruntime, StudentError for a causal student.
    """
    if manifest.student.architecture == "causal":
        raise refuse("onnx", "causal", "ctranslate2")
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "export --format onnx needs onnx and onnxruntime: pip install 'finstill[export]'."
        ) from error
    plain = target / "plain"
    plain.mkdir()
    encoder = _trace(folder, manifest, plain / MODEL)
    graph = onnx.load(plain / MODEL)
    if numbers == "int8":
        _write_int8(graph, encoder, target, texts)
    else:
        onnx.save_model(graph, target / MODEL)
    for file in plain.iterdir():
        file.unlink()
    plain.rmdir()


def _write_int8(graph: Any, encoder: Encoder, target: Path, texts: Sequence[str]) -> None:
    import onnx

    from student.export.onnx_int8 import halved, rows_to_int8

    exact = type(graph)()
    exact.CopyFrom(graph)
    onnx.save_model(halved(exact), target / EXACT)
    rows_to_int8(graph, _feeds(encoder, texts[:TEXTS_SEEN]))
    onnx.save_model(graph, target / MODEL)
    contexts = encoder.text_contexts(texts)
    own, other = (
        label_scores(open_session(target / name, 1), encoder, contexts, CHECK_BATCH)
        for name in (EXACT, MODEL)
    )
    change = (leads(own, own.argmax(-1)) - leads(other, own.argmax(-1))).abs().max()
    size = (target / EXACT).stat().st_size
    onnx.helper.set_model_props(graph, {MARGIN: f"{float(change):.6f}", EXACT_BYTES: str(size)})
    onnx.save_model(graph, target / MODEL)


def _feeds(encoder: Encoder, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The texts as the graph takes them."""
    for context in encoder.text_contexts(texts):
        ids, mask = padded([context], encoder.tokens.pad)
        yield {"ids": ids.numpy(), "mask": mask.numpy()}


@torch.no_grad()
def _trace(folder: Path, manifest: Manifest, path: Path) -> Encoder:
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
    return encoder
