"""Which examples go into which batch and micro-batch: random enough, little padding."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from student.encoding import EncodedExample


class PooledSampler(Sampler[int]):
    """
    Random batches of examples of like length.

    Each epoch is a permutation; every `pool` batches of it are sorted by length together, cut into
    batches, and all batches are shuffled. pool 1 leaves the batches purely random. The order
    depends on seed and epoch alone, so a resumed training sees what an undisturbed one would.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, pool: int, seed: int):
        self.lengths, self.batch_size, self.pool, self.seed = lengths, batch_size, pool, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        span = self.pool * self.batch_size
        batches: list[list[int]] = []
        for begin in range(0, len(order), span):
            part = order[begin : begin + span]
            if self.pool > 1:
                part.sort(key=lambda i: self.lengths[i])
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        # A short batch stays last: the loader cuts the stream at every batch_size examples.
        tail = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        for batch in [*(batches[i] for i in shuffled), *tail]:
            yield from batch


def micro_batches(examples: Sequence[EncodedExample], size: int) -> list[list[EncodedExample]]:
    """An effective batch sorted by length and cut into parts of at most `size` examples."""
    ordered = sorted(examples, key=lambda e: e.length)
    return [list(ordered[i : i + size]) for i in range(0, len(ordered), size)]
