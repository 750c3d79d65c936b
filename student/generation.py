"""Rationales: generated greedily, batch by batch, and only as long as they say something new."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from student.memory import in_halves
from student.models.load import LoadedStudent
from student.spacing import forgets_spaces, respaced

LONGEST_PHRASE = 16

# (tokens the model reads first, tokens its answer starts with); see Encoder.explain_inputs.
Opening = tuple[Sequence[int], Sequence[int]]


def repeats_needed(phrase: int) -> int:
    """
    How often a phrase of so many tokens stands in a row before it counts as a loop.

    Short ones oftener: to a tokenizer that takes figures apart 10,000,000,000 is ", 0 0 0" three
    times, and ten million seven zeros.
    """
    return {1: 8, 2: 6, 3: 5, 4: 5}.get(phrase, 3)


def looping_phrase(tokens: Sequence[int]) -> int:
    """Length of the phrase that `tokens` ends with over and over; 0 where it does not."""
    for size in range(1, LONGEST_PHRASE + 1):
        count = repeats_needed(size)
        tail = tuple(tokens[-size * count :])
        if len(tail) == size * count and tail == tail[:size] * count:
            return size
    return 0


def without_loop(tokens: Sequence[int], end: int) -> list[int]:
    """
    The tokens up to the end token; once a phrase begins to loop, its repetitions are dropped.

    Small greedy decoders get caught in "and the and the and the"; sampling or a ban on repeated
    n-grams would also change rationales that are sound.
    """
    kept: list[int] = []
    for token in tokens:
        if token == end:
            break
        kept.append(token)
        size = looping_phrase(kept)
        if size:
            return kept[: len(kept) - size * (repeats_needed(size) - 1)]
    return kept


class LoopStop(StoppingCriteria):
    """Ends the rows that loop, so that a batch does not wait for them."""

    def __init__(self, prompt_tokens: int):
        self._begin = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        """(rows,) bool: which rows are done."""
        rows = input_ids[:, self._begin :].tolist()
        done = [looping_phrase(row) > 0 for row in rows]
        return torch.tensor(done, device=input_ids.device)


class Explainer:
    """Generates the rationales of a LoadedStudent: greedy, with a token limit."""

    def __init__(self, loaded: LoadedStudent, device: torch.device, most_tokens: int):
        self._loaded, self._device, self._most = loaded, device, most_tokens
        # A base brings its own settings (BART bans repeated n-grams, which forges figures, and
        # wants a least length): its students were taught on none of them.
        loaded.core.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def explain(self, openings: Sequence[Opening], batch_size: int) -> list[str]:
        """
        Rationales in the order given; batches hold texts of like length, and are halved where they
        find no room in memory. Raises StudentError where one text finds none.
        """
        order = sorted(range(len(openings)), key=lambda i: -len(openings[i][0]))
        found: dict[int, str] = {}
        for begin in range(0, len(order), batch_size):
            part = order[begin : begin + batch_size]
            written = in_halves(self._batch, [openings[i] for i in part])
            found.update(zip(part, written, strict=True))
        return [found[i] for i in range(len(openings))]

    def _batch(self, openings: Sequence[Opening]) -> list[str]:
        core, tokens = self._loaded.core, self._loaded.tokens
        causal = not core.config.is_encoder_decoder
        rows = [[*context, *(opening if causal else ())] for context, opening in openings]
        width = max(map(len, rows))
        # Left padding, so that every causal row goes on at the same place; an encoder with absolute
        # positions would read a shifted text.
        gaps = [[tokens.pad] * (width - len(row)) for row in rows]
        pairs = list(zip(gaps, rows, strict=True))
        ids = torch.tensor([gap + row if causal else row + gap for gap, row in pairs])
        seen = [([0] * len(gap), [1] * len(row)) for gap, row in pairs]
        mask = torch.tensor([no + yes if causal else yes + no for no, yes in seen])
        begin, options = width, {}
        if not causal:
            first = torch.tensor([opening for _, opening in openings], device=self._device)
            begin = first.shape[1]
            options = {"decoder_input_ids": first, "decoder_start_token_id": int(first[0, 0])}
        made = core.generate(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            max_new_tokens=self._most,
            do_sample=False,
            num_beams=1,
            pad_token_id=tokens.pad,
            eos_token_id=tokens.end,
            stopping_criteria=StoppingCriteriaList([LoopStop(begin)]),
            **options,
        )
        return readable(self._loaded.tokenizer, made[:, begin:].tolist(), tokens.end)


def readable(tokenizer: Any, rows: Sequence[Sequence[int]], end: int) -> list[str]:
    """Generated tokens as text, without special tokens and loops, figures in one piece."""
    kept = [without_loop(row, end) for row in rows]
    texts = tokenizer.batch_decode(kept, skip_special_tokens=True)
    return list(map(respaced if forgets_spaces(tokenizer) else str.strip, texts))
