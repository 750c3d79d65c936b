"""
The label strings of a task as a tree of tokens: what must be asked of a model to tell them apart.

The probability of a label is that of its token sequence (end token included) when decoding is held
to the label strings: at every point where label strings part ways, the model's distribution over
the tokens that go on to some label, renormalised; where only one token can follow, 1 (constrained
decoding; De Cao et al. 2021, GENRE). Labels whose first tokens all differ need one position of the
model, whatever their length. The probabilities of all labels sum to 1 by construction, which the
products over the whole vocabulary, as the training loss takes them, do not; on a student that has
learnt its labels the two agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import StudentError
from student.encoding import IGNORE, Branch

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LabelTrie:
    """
    `opening`: tokens the model reads before any label token. `paths`: label tokens it reads
    beyond, one path per row, so that each row is an ordinary sequence. `places[n]` = (path,
    position): after `position` tokens of that path, choice n is made, in rising order.
    `tokens`: every token that is some choice's option, rising; `options[n]`: those of choice n.
    `steps[k]`: the choices label k goes through, with the token taken at each.
    """

    opening: Tokens
    paths: tuple[Tokens, ...]
    places: tuple[tuple[int, int], ...]
    tokens: Tokens
    options: tuple[Tokens, ...]
    steps: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def width(self) -> int:
        """Tokens of the longest row beyond the opening."""
        return max(map(len, self.paths))

    def label_logs(self, logits: Tensor) -> Tensor:
        """
        Logits (B, choices, len(tokens)) to log-probabilities of the labels (B, K), in float32 or
        better. Each row's probabilities sum to 1.
        """
        working = logits if logits.dtype == torch.float64 else logits.float()
        allowed = torch.tensor([[t in o for t in self.tokens] for o in self.options])
        logs = torch.log_softmax(
            working.masked_fill(~allowed.to(working.device), -torch.inf), dim=-1
        )
        column = {token: i for i, token in enumerate(self.tokens)}
        labels = [
            torch.stack([logs[:, choice, column[token]] for choice, token in steps]).sum(0)
            for steps in self.steps
        ]
        return torch.stack(labels, dim=1)


def label_trie(branches: Sequence[Branch]) -> LabelTrie:
    """
    The trie of a task's label branches, in the order of its labels.

    Raises StudentError where two labels are the same tokens: the model could not tell them apart.
    """
    sequences = [tuple(t for t in b.targets if t != IGNORE) for b in branches]
    first = branches[0]
    opening = first.inputs[: len(first.inputs) - len(sequences[0]) + 1]
    if len(set(sequences)) < len(sequences):
        raise StudentError(
            f"the task's labels become the token sequences {sequences}, not all different; "
            "expected a tokenizer that tells them apart: rename the labels or set another "
            "student.tokenizer."
        )
    options = _choices(sequences)
    paths = _paths(list(options))
    where = {
        prefix: next((i, len(prefix)) for i, p in enumerate(paths) if p[: len(prefix)] == prefix)
        for prefix in options
    }
    ordered = sorted(options, key=lambda prefix: where[prefix])
    number = {prefix: i for i, prefix in enumerate(ordered)}
    return LabelTrie(
        opening=tuple(opening),
        paths=tuple(paths),
        places=tuple(where[prefix] for prefix in ordered),
        tokens=tuple(sorted({t for chosen in options.values() for t in chosen})),
        options=tuple(options[prefix] for prefix in ordered),
        steps=tuple(_steps(sequence, number) for sequence in sequences),
    )


def _choices(sequences: Sequence[Tokens]) -> dict[Tokens, Tokens]:
    """Every prefix after which label strings part, with the tokens that may follow it."""
    following: dict[Tokens, set[int]] = {}
    for sequence in sequences:
        for length, token in enumerate(sequence):
            following.setdefault(sequence[:length], set()).add(token)
    return {prefix: tuple(sorted(t)) for prefix, t in following.items() if len(t) > 1}


def _paths(prefixes: Sequence[Tokens]) -> list[Tokens]:
    """The prefixes that are not the beginning of another: reading them passes all the others."""
    return sorted(p for p in prefixes if not any(q != p and q[: len(p)] == p for q in prefixes))


def _steps(sequence: Tokens, number: dict[Tokens, int]) -> tuple[tuple[int, int], ...]:
    return tuple(
        (number[sequence[:length]], token)
        for length, token in enumerate(sequence)
        if sequence[:length] in number
    )
