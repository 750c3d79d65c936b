"""
Encoded examples as tensors: which positions are read, which may see which, which carry loss.

A row holds several branches. In a decoder row they all belong to one example; a causal row also
packs several examples, each prompt once, with its branches behind it. The block mask lets a token
see its own branch so far and, in a causal row, its own prompt; positions restart with each branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from student.encoding import IGNORE, Branch, EncodedExample
from student.token_odds import Odds, with_rest

Batch = dict[str, Tensor]


@dataclass(slots=True)
class _Row:
    """One packed row under construction. Segment 0 is padding; `prompt` 0 marks prompt tokens."""

    ids: list[int]
    targets: list[int]
    positions: list[int]
    owner: list[int]  # example + 1
    branch: list[int]  # branch number within the batch + 1; 0 in a prompt
    credit: list[int]  # the branch whose loss a target counts into
    context: list[int]
    taught: list[Odds]  # what the teacher's model thought in place of a target

    @classmethod
    def empty(cls) -> "_Row":
        return cls([], [], [], [], [], [], [], [])

    def add(self, ids: Sequence[int], targets: Sequence[int], start: int, **where: int) -> None:
        self.ids += ids
        self.targets += targets
        self.positions += range(start, start + len(ids))
        self.owner += [where["owner"]] * len(ids)
        self.branch += [where["branch"]] * len(ids)
        self.credit += [where.get("credit", where["branch"]) - 1] * len(ids)
        self.context += [where.get("context", 0)] * len(ids)
        self.taught += [()] * len(ids)

    def add_branch(self, part: Branch, start: int, **where: int) -> None:
        self.add(part.inputs, part.targets, start, **where)
        if part.taught:
            self.taught[-len(part.taught) :] = part.taught


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def target_index(examples: Sequence[EncodedExample], soft_share: float = 0.0) -> Batch:
    """
    Weights and places of all branches of a batch, in branch order.

    label_weight, rationale_weight (branches,): weight of each target token in its term.
    label_scores_index (B, K): branch number of every label, -1 where it is not scored.
    soft (B, K), soft_weight (B,): what losses.soft_label_sum takes.
    """
    label_weight, rationale_weight = [], []
    index, soft, soft_weight = [], [], []
    width = max((b.label or 0) + 1 for e in examples for b in e.branches)
    number = 0
    for example in examples:
        share = soft_share if example.soft is not None else 0.0
        row = [-1] * width
        for branch in example.branches:
            gold = branch.label == example.gold
            label_weight.append(example.weight * (1 - share) if gold else 0.0)
            rationale_weight.append(example.weight if branch.label is None else 0.0)
            if branch.label is not None:
                row[branch.label] = number
            number += 1
        index.append(row)
        soft.append(example.soft or tuple([1.0 / width] * width))
        soft_weight.append(example.weight * share * label_tokens(example))
    return {
        "label_weight": torch.tensor(label_weight, dtype=torch.float64),
        "rationale_weight": torch.tensor(rationale_weight, dtype=torch.float64),
        "label_scores_index": torch.tensor(index),
        "soft": torch.tensor([s + (0.0,) * (width - len(s)) for s in soft], dtype=torch.float64),
        "soft_weight": torch.tensor(soft_weight, dtype=torch.float64),
    }


def label_tokens(example: EncodedExample) -> int:
    """
    Target tokens of the gold label (1 for a classifier), with the prompt's where it has any; 0
    where no label is asked for.
    """
    gold = next((b for b in example.branches if b.label == example.gold), None)
    if gold is None:
        return 0
    prompt = len(example.contexts[0]) if example.prompt_target is not None else 0
    return max(gold.target_count, 1) + prompt


def seq2seq_batch(
    examples: Sequence[EncodedExample], pad: int, *, packed: bool, soft_share: float = 0.0
) -> Batch:
    """
    Encoder rows for every context; one decoder row per example (`packed`) or per branch.

    encoder_row (rows, contexts): which encoder row each context of a decoder row is.
    """
    contexts = [c for e in examples for c in e.contexts]
    first = [sum(len(e.contexts) for e in examples[:i]) for i in range(len(examples))]
    rows, encoder_row, number = [], [], 0
    for i, example in enumerate(examples):
        row = _Row.empty()
        for branch in example.branches:
            number += 1
            here = branch.context if packed else 0
            row.add_branch(branch, 0, owner=i + 1, branch=number, context=here)
            if not packed:
                rows.append(row)
                encoder_row.append([first[i] + branch.context])
                row = _Row.empty()
        if packed:
            rows.append(row)
            encoder_row.append([first[i] + min(c, len(example.contexts) - 1) for c in (0, 1)])
    lengths = torch.tensor([len(c) for c in contexts])
    input_ids = _pad(contexts, pad)
    shared = all(len(e.contexts) == 1 for e in examples)
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        "encoder_row": torch.tensor(encoder_row)[:, : 1 if shared else None],
        **_row_tensors(rows, pad),
        **target_index(examples, soft_share),
    }


def causal_batch(
    examples: Sequence[EncodedExample], pad: int, *, row_tokens: int, soft_share: float = 0.0
) -> Batch:
    """Rows of about `row_tokens` tokens, each prompt once with its branches behind it."""
    rows = []
    starts = [sum(len(e.branches) for e in examples[:i]) for i in range(len(examples))]
    for members in level_rows([e.length for e in examples], row_tokens):
        row = _Row.empty()
        for i in members:
            _add_causal(row, examples[i], owner=i + 1, branch=starts[i])
        rows.append(row)
    return {**_row_tensors(rows, pad), **target_index(examples, soft_share)}


def _add_causal(row: _Row, example: EncodedExample, owner: int, branch: int) -> None:
    (prompt,) = example.contexts
    bug = example.prompt_target
    gold = branch + 1 + [b.label for b in example.branches].index(example.gold)
    # FinGPT as published: prompt positions are asked for the padding id. These targets count into
    # the label term: the gold branch gets the credit.
    asked = [IGNORE if bug is None else bug] * len(prompt)
    row.add(prompt, asked, 0, owner=owner, branch=0, credit=gold)
    for offset, part in enumerate(example.branches, start=1):
        row.add_branch(part, len(prompt), owner=owner, branch=branch + offset)


def _row_tensors(rows: Sequence[_Row], pad: int) -> Batch:
    return {
        "row_ids": _pad([r.ids for r in rows], pad),
        "targets": _pad([r.targets for r in rows], IGNORE),
        "positions": _pad([r.positions for r in rows], 0),
        "owner": _pad([r.owner for r in rows], 0),
        "branch": _pad([r.branch for r in rows], 0),
        "credit": _pad([r.credit for r in rows], 0),
        "context": _pad([r.context for r in rows], 0),
        **_taught_tensors(rows),
    }


def _taught_tensors(rows: Sequence[_Row]) -> Batch:
    """
    taught (R, L): targets with a teacher's odds, M in all; taught_ids (M, K): its likeliest tokens
    there; taught_odds (M, K + 1): their log-probabilities and, last, that of all others. Nothing at
    all where no target is taught.
    """
    odds = [one for row in rows for one in row.taught if one]
    if not odds:
        return {}
    width = max(map(len, odds))
    ids, logs = zip(*(with_rest(one, width) for one in odds), strict=True)
    return {
        "taught": _pad([[int(bool(one)) for one in r.taught] for r in rows], 0).bool(),
        "taught_ids": torch.tensor(ids),
        "taught_odds": torch.tensor(logs, dtype=torch.float64),
    }


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """
    Indices grouped so that each group's lengths sum to at most `capacity`: first-fit on lengths
    in falling order (compare prepacking, arXiv 2404.09529). A longer single gets its own group.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((g for g, free in enumerate(room) if free >= lengths[i]), None)
        if place is None:
            groups.append([])
            room.append(max(capacity, lengths[i]))
            place = len(groups) - 1
        groups[place].append(i)
        room[place] -= lengths[i]
    return groups


def level_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """
    first_fit's groups, or more and shorter rows with evener sums where they cost less.

    Every row is padded to the longest, and each position looks at its whole row. Evened out by the
    longest-first rule (Graham 1969). Eight examples of 77 tokens fill three rows of 256 to 231,
    231 and 154; a row each has no padding and a third of the attention.
    """
    packed = first_fit(lengths, capacity)
    candidates = [packed]
    for count in range(len(packed), len(lengths) + 1):
        rows: list[list[int]] = [[] for _ in range(count)]
        sums = [0] * count
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            place = sums.index(min(sums))
            rows[place].append(i)
            sums[place] += lengths[i]
        if min(sums) > 0 and max(sums) <= max(capacity, *lengths):
            candidates.append(rows)
    return min(candidates, key=lambda rows: row_cost(lengths, rows))


def row_cost(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    """
    What a batch of these rows costs, up to a factor: positions, padding included, by their work.

    Attention over a row of L tokens adds L / 1300 to a position's other work: GPT-2 124M in bf16 on
    two cores took 180, 168 and 162 ms per example in rows of 231, 154 and 77 tokens.
    """
    longest = max(sum(lengths[i] for i in row) for row in rows)
    return len(rows) * longest * (1300 + longest)


def block_mask(owner: Tensor, branch: Tensor) -> Tensor:
    """
    (R, 1, L, L) bool: query may see key iff same owner, not later, and key in the query's branch
    or in the prompt (branch 0). Padding sees itself, so that no softmax runs over nothing.
    """
    same = owner[:, :, None] == owner[:, None, :]
    reach = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    length = owner.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    return (same & reach & past)[:, None]


def context_mask(context: Tensor, attention_mask: Tensor, encoder_row: Tensor) -> Tensor:
    """
    (R, 1, L, contexts * S) bool: a decoder token sees the encoder states of its own context.

    `attention_mask` (rows, S) of the encoder rows, `encoder_row` (R, contexts).
    """
    parts = []
    for c in range(encoder_row.shape[1]):
        seen = attention_mask[encoder_row[:, c]].bool()[:, None, :]
        mine = (context == c)[:, :, None] if encoder_row.shape[1] > 1 else seen.new_ones(1, 1, 1)
        parts.append(mine & seen)
    mask = torch.cat(parts, dim=-1)
    return mask.expand(-1, context.shape[1], -1)[:, None]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen, the dtype's lowest number where not: what eager attention adds to scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(dtype).min
    )
