"""
Label scoring: what a finished student says of a text, without generating anything.

Each text goes through the model once (the encoder, or the prompt), the head computes only the few
logits the label trie asks for. Texts of like length share a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from student.batches import additive, block_mask
from student.encoding import EncodedExample
from student.memory import in_halves
from student.models.attention import ADDITIVE
from student.models.cross import states_as_keys
from student.models.head import OutputHead
from student.models.load import StudentModule
from student.trie import LabelTrie, label_trie

Contexts = Sequence[Sequence[int]]
# Measured on two cores (docs/students.md): float32 likes few rows, bfloat16 and int8 some more; at
# 1,024 tokens all are within 5 % of their best.
MOST_TOKENS = 1024
LEAST_FILL = 0.85


class ReducedHead(nn.Module):
    """
    Stands in for an output head: only chosen positions, only chosen rows of the matrix.

    A vocabulary's worth of logits per position is 16 million multiplications in Flan-T5-small;
    the labels need a handful. Heads that are no plain matrix keep their full width. Half-precision
    weights are held in float32, so that their logits are not rounded: near 10, bfloat16 steps by
    1/16, and a student's two likeliest labels are often nearer than that.
    """

    def __init__(self, core: Any, tokens: Sequence[int]):
        super().__init__()
        head = core.get_output_embeddings()
        if core.config.model_type == "encoder-decoder":
            head = core.decoder.get_output_embeddings()
        self._owner, self._name = _place(core, head)
        self._full, self._tokens = [head], torch.tensor(list(tokens), device=head.weight.device)
        plain = type(head) in (nn.Linear, OutputHead) and not hasattr(core, "final_logits_bias")
        self.weight = self._rows(head.weight) if plain else None
        bias = getattr(head, "bias", None)
        self.bias = self._rows(bias) if plain and bias is not None else None
        self.chosen: Tensor | None = None

    def forward(self, states: Tensor) -> Tensor:
        """(rows, length, H) to (chosen positions, tokens), or (…, vocabulary) if not plain."""
        states = states if self.chosen is None else states[self.chosen]
        if self.weight is None:
            return self._full[0](states)  # type: ignore[no-any-return]
        return nn.functional.linear(states.to(self.weight.dtype), self.weight, self.bias)

    def _rows(self, parameter: Tensor) -> Tensor:
        rows = parameter.detach()[self._tokens]
        return rows.to(torch.promote_types(rows.dtype, torch.float32), copy=True)

    def columns(self, logits: Tensor) -> Tensor:
        """The logits of the wanted tokens, whatever the head's form."""
        return logits if self.weight is not None else logits[..., self._tokens]

    @contextmanager
    def at(self, chosen: Tensor | None) -> Iterator[None]:
        """In place of the model's own head while the context lasts; None: at all positions."""
        self.chosen = chosen
        setattr(self._owner[0], self._name, self)
        try:
            yield
        finally:
            setattr(self._owner[0], self._name, self._full[0])


def _place(core: nn.Module, head: nn.Module) -> tuple[list[nn.Module], str]:
    """Where a head hangs in its model; in a list, so that no module becomes its own child."""
    for part in core.modules():
        for name, child in part.named_children():
            if child is head:
                return [part], name
    raise AssertionError("a transformers model holds its own output head")


class TorchScorer:
    """
    Scores labels with a student module as its weights are now. `labels`: an encoded text with a
    branch for every label. Not for use from several threads at once.
    """

    def __init__(self, module: StudentModule, labels: EncodedExample, device: torch.device):
        self._core, self._pad, self._device = module.core, module.pad, device
        self._order = getattr(module, "order", None)
        self._trie, self._head = None, None
        if self._order is None:
            self._trie = label_trie(labels.branches)
            self._head = ReducedHead(self._core, self._trie.tokens)

    @torch.no_grad()
    def scores(self, contexts: Contexts, batch_size: int) -> Tensor:
        """(texts, labels): log-probabilities on the CPU, in the order given."""
        return in_batches(contexts, batch_size, self._batch)

    def _batch(self, contexts: Contexts) -> Tensor:
        if self._trie is None:
            return self._classify(contexts)
        causal = not self._core.config.is_encoder_decoder
        logits = self._continue(contexts) if causal else self._decode(contexts)
        shaped = logits.reshape(len(contexts), len(self._trie.places), -1)
        return self._trie.label_logs(shaped).cpu()

    def _classify(self, contexts: Contexts) -> Tensor:
        ids, mask = self._padded(contexts)
        logits = self._core(input_ids=ids, attention_mask=mask).logits[:, self._order]
        working = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(working, dim=-1).cpu()

    def _decode(self, contexts: Contexts) -> Tensor:
        """One encoder row per text; a decoder row per path of the trie on top of it."""
        assert self._trie
        ids, mask = self._padded(contexts)
        encoded = self._core.get_encoder()(input_ids=ids, attention_mask=mask)
        rows, chosen = path_rows(self._trie, self._pad)
        times = len(rows)
        if times > 1:
            encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(times, 0)
            mask = mask.repeat_interleave(times, 0)
        return self._logits(
            chosen.repeat(len(contexts), 1),
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=rows.repeat(len(contexts), 1).to(self._device),
        )

    def _continue(self, contexts: Contexts) -> Tensor:
        """
        One row per text: prompt, task word, then the paths of the trie side by side.

        A single path needs no mask: padding stands at the end, where no real token looks.
        """
        trie = self._trie
        assert trie
        prompts = [[*context, *trie.opening] for context in contexts]
        tails = [token for path in trie.paths for token in path]
        ids, _ = self._padded([[*prompt, *tails] for prompt in prompts])
        starts = [sum(map(len, trie.paths[:i])) for i in range(len(trie.paths))]
        chosen = torch.zeros(ids.shape, dtype=torch.bool, device=self._device)
        for row, prompt in enumerate(prompts):
            for path, position in trie.places:
                at = len(prompt) - 1 + (starts[path] + position if position else 0)
                chosen[row, at] = True
        masks = {} if len(trie.paths) == 1 else self._side_by_side(prompts, ids.shape[1])
        return self._logits(chosen, input_ids=ids, **masks)

    def _side_by_side(self, prompts: Contexts, width: int) -> dict[str, Tensor]:
        assert self._trie
        branch, positions, owner = [], [], []
        for prompt in prompts:
            own, place = [0] * len(prompt), list(range(len(prompt)))
            for number, path in enumerate(self._trie.paths, start=1):
                own += [number] * len(path)
                place += range(len(prompt), len(prompt) + len(path))
            rest = width - len(own)
            owner.append([1] * len(own) + [0] * rest)
            branch.append([*own, *[0] * rest])
            positions.append([*place, *[0] * rest])
        mask = block_mask(torch.tensor(owner), torch.tensor(branch))
        if self._core.config._attn_implementation in ADDITIVE:
            mask = additive(mask, self._core.get_input_embeddings().weight.dtype)
        return {
            "attention_mask": mask.to(self._device),
            "position_ids": torch.tensor(positions, device=self._device),
        }

    def _logits(self, chosen: Tensor, **inputs: Any) -> Tensor:
        assert self._head
        with self._head.at(chosen.to(self._device)), states_as_keys(self._core):
            return self._head.columns(self._core(**inputs, use_cache=False).logits)

    def _padded(self, rows: Contexts) -> tuple[Tensor, Tensor]:
        ids, mask = padded(rows, self._pad)
        return ids.to(self._device), mask.to(self._device)


def in_batches(contexts: Contexts, size: int, score: Callable[[Contexts], Tensor]) -> Tensor:
    """
    Score batches of texts of like length, the longest first; the order given is restored.

    A batch that finds no room in memory is halved. Raises StudentError where one text finds none.
    """
    rows: dict[int, Tensor] = {}
    for part in batches_by_length([len(context) for context in contexts], size):
        rows.update(zip(part, in_halves(score, [contexts[i] for i in part]), strict=True))
    return torch.stack([rows[i] for i in range(len(contexts))])


def batches_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """
    Indices in batches, the longest first: at most `size` rows and MOST_TOKENS tokens, padding
    included (a single longer row has its own batch), no row below LEAST_FILL of the longest.
    """
    batches: list[list[int]] = []
    width = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = bool(batches) and len(batches[-1]) >= min(size, MOST_TOKENS // max(width, 1))
        if not batches or full or lengths[i] < LEAST_FILL * width:
            batches.append([])
            width = lengths[i]
        batches[-1].append(i)
    return batches


def path_rows(trie: LabelTrie, pad: int) -> tuple[Tensor, Tensor]:
    """Decoder rows (paths, length) and, as bool, the positions at which choices are made."""
    width = len(trie.opening) + trie.width
    rows = [[*trie.opening, *path] for path in trie.paths]
    chosen = torch.zeros(len(rows), width, dtype=torch.bool)
    for path, position in trie.places:
        chosen[path, len(trie.opening) - 1 + position] = True
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows]), chosen


def padded(rows: Contexts, pad: int) -> tuple[Tensor, Tensor]:
    """Token rows padded at their end, and the mask of what is real."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(width) < lengths[:, None]).long()
