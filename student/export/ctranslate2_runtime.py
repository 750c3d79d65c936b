"""A student that CTranslate2 runs: int8 on a CPU, int8 or float16 on a GPU."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import MissingDependency
from student.checkpoint import Manifest
from student.encoding import Encoder, known_tokens
from student.export.ctranslate2_convert import FOLDER
from student.export.damage import damaged
from student.generation import Opening, readable
from student.scoring import Contexts
from student.tokens import load_tokenizer
from student.trie import label_trie

# Logits of the whole vocabulary come back for every text: so many texts at a time.
TEXTS_AT_ONCE = 512


class CTranslate2Runtime:
    """See student.runtime.Runtime. Threads work on batches of their own, one each."""

    generates = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int):
        try:
            import ctranslate2
        except ImportError as error:
            raise MissingDependency(
                f"'{folder}' is a CTranslate2 export: pip install 'finstill[export]' to run it."
            ) from error
        ctranslate2.set_log_level(
            logging.ERROR
        )  # it warns of float16 that a CPU computes as float32
        self._tokenizer: Any = load_tokenizer(str(folder))
        self._tokens = known_tokens(manifest.tokens, self._tokenizer, folder)
        self.encoder = Encoder(manifest.student, manifest.task, self._tokenizer, self._tokens)
        self._most = manifest.student.max_rationale_tokens
        self._trie = label_trie(self.encoder.encode_text("").branches)
        self._causal = manifest.student.architecture == "causal"
        kind = ctranslate2.Generator if self._causal else ctranslate2.Translator
        try:
            self._model = kind(
                str(folder / FOLDER),
                device="cuda" if torch.cuda.is_available() else "cpu",
                inter_threads=threads,
                intra_threads=1,
            )
        except (RuntimeError, ValueError) as error:
            raise damaged(folder / FOLDER, error) from error

    def scores(self, contexts: Contexts, batch_size: int) -> Tensor:
        """See Runtime."""
        parts = [
            self._score(contexts[begin : begin + TEXTS_AT_ONCE], batch_size)
            for begin in range(0, len(contexts), TEXTS_AT_ONCE)
        ]
        return torch.cat(parts)

    def explain(self, openings: Sequence[Opening], batch_size: int) -> list[str]:
        """See Runtime."""
        if self._causal:
            prompts = [self._words([*context, *opening]) for context, opening in openings]
            results = self._model.generate_batch(
                prompts,
                max_batch_size=batch_size,
                max_length=self._most,
                sampling_topk=1,
                include_prompt_in_result=False,
            )
            rows = [result.sequences_ids[0] for result in results]
        else:
            results = self._model.translate_batch(
                [self._words(context) for context, _ in openings],
                [self._words(opening) for _, opening in openings],
                max_batch_size=batch_size,
                beam_size=1,
                max_input_length=0,
                max_decoding_length=self._most,
            )
            rows = [self._tokenizer.convert_tokens_to_ids(r.hypotheses[0]) for r in results]
        return readable(self._tokenizer, rows, self._tokens.end)

    def _score(self, contexts: Contexts, batch_size: int) -> Tensor:
        ask = self._continued if self._causal else self._decoded
        logits = torch.stack(ask(contexts, batch_size), dim=1)
        return self._trie.label_logs(logits)

    def _decoded(self, contexts: Contexts, batch_size: int) -> list[Tensor]:
        """Logits (texts, tokens) of every choice; a path gives all its choices in one decoding."""
        sources = [self._words(context) for context in contexts]
        found = []
        for number, path in enumerate(self._trie.paths):
            prefix = self._words([*self._trie.opening, *path])
            results = self._model.translate_batch(
                sources,
                [prefix] * len(sources),
                max_batch_size=batch_size,
                beam_size=1,
                max_input_length=0,  # else it would cut at 1,024, whatever the student reads
                min_decoding_length=0,
                max_decoding_length=len(prefix),
                return_logits_vocab=True,
            )
            places = [position for where, position in self._trie.places if where == number]
            found += [self._chosen(results, position) for position in places]
        return found

    def _continued(self, contexts: Contexts, batch_size: int) -> list[Tensor]:
        found = []
        for path, position in self._trie.places:
            tail = [*self._trie.opening, *self._trie.paths[path][:position]]
            results = self._model.generate_batch(
                [self._words([*context, *tail]) for context in contexts],
                max_batch_size=batch_size,
                min_length=0,
                max_length=1,
                return_logits_vocab=True,
                include_prompt_in_result=False,
            )
            # Rows of unequal length also bring logits from inside the longer prompts.
            found.append(self._chosen(results, -1))
        return found

    def _chosen(self, results: Sequence[Any], position: int) -> Tensor:
        wanted = list(self._trie.tokens)
        rows = [_array(result.logits[0], position)[wanted] for result in results]
        return torch.from_numpy(np.stack(rows)).float()

    def _words(self, ids: Sequence[int]) -> list[str]:
        return list(self._tokenizer.convert_ids_to_tokens(list(ids)))


def _array(view: Any, row: int) -> Any:
    """One row of a result's logits, which come as one matrix or as a list of vectors."""
    if isinstance(view, list):
        return np.asarray(view[row])
    matrix = np.asarray(view)
    return matrix[row] if matrix.ndim > 1 else matrix
