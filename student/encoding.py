"""
A training pair as token ids: contexts that are read, branches that are learnt.

A branch is one continuation of a context: a label string or the rationale. Branches never see
each other. In a seq2seq student a context goes through the encoder; in a causal one it is the
prompt, and the task word belongs to the branch, after the text, so that both branches share it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from common.config.student import StudentConfig
from common.config.training import Copying
from common.errors import StudentError
from common.records import TrainingPair
from common.task import StudentPrompt, TaskDefinition
from student.token_odds import Odds, taught_targets, vocabulary_bytes
from student.tokens import continuation_ids, fitting_text, plain_ids, target_ids

IGNORE = -100


@dataclass(frozen=True, slots=True)
class Branch:
    """
    One continuation. `targets[t]` is what shall follow after `inputs[: t + 1]`; IGNORE where
    nothing is asked (the task word). `label` is the label's index, None for a rationale.
    `taught[t]` is what the teacher's model thought likely in place of `targets[t]`; empty: unknown.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    label: int | None
    context: int = 0
    taught: tuple[Odds, ...] = ()

    @property
    def target_count(self) -> int:
        return sum(t != IGNORE for t in self.targets)


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """
    One example ready for batching. `gold` is the label's index; `soft` the teachers' distribution
    over the labels, in their order; `prompt_target` the id FinGPT's published code asks the prompt
    positions to emit (None: they carry no loss). `copy`: the same with the text itself in place of
    the rationale.
    """

    contexts: tuple[tuple[int, ...], ...]
    branches: tuple[Branch, ...]
    gold: int
    weight: float = 1.0
    soft: tuple[float, ...] | None = None
    prompt_target: int | None = None
    copy: "EncodedExample | None" = None

    @property
    def explained(self) -> bool:
        """Whether it comes with a rationale."""
        return any(b.label is None for b in self.branches)

    @property
    def length(self) -> int:
        """Tokens this example puts through the model."""
        return sum(map(len, self.contexts)) + sum(len(b.inputs) for b in self.branches)


@dataclass(frozen=True, slots=True)
class TaskTokens:
    """
    Ids that start and end decodings. `predict` and `explain` are equal for the prefix signal.

    `lead` stands before the task token in a decoder made of an encoder: such a model has learnt to
    treat position 0 as a sink whatever stands there, and would not see a task token on it
    (docs/decisions.md).
    """

    predict: int
    explain: int
    end: int
    pad: int
    lead: int | None = None


def known_tokens(
    tokens: Mapping[str, int], tokenizer: PreTrainedTokenizerBase, folder: Path
) -> TaskTokens:
    """The ids a manifest in `folder` names. Raises StudentError where one is not to be had."""
    highest = max(tokenizer.get_vocab().values())
    needed = {field.name for field in fields(TaskTokens)}
    if not needed - {"lead"} <= tokens.keys() <= needed or not all(
        0 <= number <= highest for number in tokens.values()
    ):
        raise StudentError(
            f"student folder '{folder}': its manifest names the tokens {dict(tokens)}; expected "
            f"ids of predict, explain, end and pad up to {highest}, where its tokenizer ends: copy "
            "the folder again whole."
        )
    return TaskTokens(**tokens)


class Encoder:
    """Turns pairs and texts into EncodedExamples for one student. Holds no state but its set-up."""

    def __init__(
        self,
        config: StudentConfig,
        task: TaskDefinition,
        tokenizer: PreTrainedTokenizerBase,
        tokens: TaskTokens,
    ):
        self.config, self.task, self.tokenizer, self.tokens = config, task, tokenizer, tokens
        self.prompt: StudentPrompt = task.student_prompt(config.prompt)
        self.causal = config.architecture == "causal"
        self._labels = [self._label_branch(i, name) for i, name in enumerate(task.label_names)]

    def encode_pair(
        self,
        pair: TrainingPair,
        *,
        rationale: bool = True,
        all_labels: bool = False,
        token_odds: bool = False,
        copying: Copying | None = None,
        prompt_target: int | None = None,
    ) -> EncodedExample:
        """
        Encode a pair; without `rationale` the explain side does not exist at all.

        `all_labels` adds a branch for every label, as soft labels need them. `token_odds` keeps
        what the teacher's model thought of the rationale's tokens. `copying` adds the text as its
        own target.
        """
        gold = self.task.label_set.index(pair.label)
        soft = self._soft(pair) if all_labels else None
        branches = [b for b in self._labels if b.label == gold or soft is not None]
        if prompt_target is not None:
            branches = [_asking(b, prompt_target) for b in branches]
        wanted = pair.rationale if rationale and pair.rationale else None
        if wanted is not None and self.config.architecture != "classifier":
            branch = self._rationale_branch(wanted)
            branches.append(self._taught(branch, pair) if token_odds else branch)
        explained = branches[-1].context == 1
        example = EncodedExample(
            contexts=self._contexts(pair.text, explained),
            branches=tuple(branches),
            gold=gold,
            weight=pair.weight,
            soft=soft,
            prompt_target=prompt_target,
        )
        if copying is None:
            return example
        return replace(example, copy=self._copy(pair.text, example, copying.labels))

    def _copy(self, text: str, example: EncodedExample, labels: bool) -> EncodedExample:
        """
        Read as a text to be explained is, and written where its rationale would stand.

        What does not fit both is cut from both: nothing unread is asked for, and all that is read.
        `labels`: the example's labels are asked for beside it.
        """
        ids = self._answer(self.prompt.explain, text)
        if len(ids) > self._most_copied:
            ids = ids[: self._most_copied]
            text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        branch = self._branch(self.prompt.explain, self.tokens.explain, ids, None)
        context = self._contexts(text, True)[-1]
        if not labels:
            return EncodedExample((context,), (replace(branch, context=0),), -1, example.weight)
        judged = tuple(b for b in example.branches if b.label is not None)
        # A label is told by the whole text, also where less of it can be written out.
        contexts = tuple(dict.fromkeys((example.contexts[0], context)))
        branch = replace(branch, context=len(contexts) - 1)
        return replace(example, contexts=contexts, branches=(*judged, branch))

    @cached_property
    def _most_copied(self) -> int:
        """Tokens of a text that fit both a context to be explained and a rationale."""
        room = self.config.max_input_tokens - len(self._contexts("", True)[-1])
        return min(room, self.config.max_rationale_tokens)

    def encode_text(self, text: str) -> EncodedExample:
        """A text with one branch per label, to be scored."""
        return EncodedExample(self._contexts(text, False), tuple(self._labels), gold=0)

    def text_contexts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """What is read of each text to score its labels, as in `encode_text`, tokenised at once."""
        prompt = self.prompt
        word = prompt.predict if self._two_contexts else ""
        after = prompt.after or ("\n" if self.causal else "")
        whole = [f"{word}{prompt.before}{text}{after}" for text in texts]
        rows: list[list[int]] = self.tokenizer(whole, return_attention_mask=False)["input_ids"]
        return [
            tuple(self._without_end(row) if self.causal else row)
            if len(row) <= self.config.max_input_tokens
            else self._contexts(text, False)[0]
            for text, row in zip(texts, rows, strict=True)
        ]

    def explain_inputs(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(context, first branch tokens) from which a rationale is generated."""
        context = self._contexts(text, True)[-1]
        return context, self._opening(self.prompt.explain, self.tokens.explain)

    def _contexts(self, text: str, explained: bool) -> tuple[tuple[int, ...], ...]:
        limit, prompt = self.config.max_input_tokens, self.prompt
        if self.config.architecture == "seq2seq" and self.config.task_signal == "prefix":
            words = [prompt.predict, prompt.explain] if explained else [prompt.predict]
        else:
            words = [""]
        # A causal student reads the task word after the text: a line break keeps them apart.
        after = prompt.after or ("\n" if self.causal else "")
        ids = [fitting_text(self.tokenizer, w + prompt.before, text, after, limit) for w in words]
        if self.causal:
            ids = [self._without_end(i) for i in ids]
        return tuple(map(tuple, ids))

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids

    def _opening(self, word: str, start: int) -> tuple[int, ...]:
        if not self.causal:
            return (start,) if self.tokens.lead is None else (self.tokens.lead, start)
        return tuple(plain_ids(self.tokenizer, word.rstrip()))

    def _branch(self, word: str, start: int, answer: list[int], label: int | None) -> Branch:
        opening = self._opening(word, start)
        targets = (*answer, self.tokens.end)
        return Branch(
            inputs=(*opening, *targets[:-1]),
            targets=(*[IGNORE] * (len(opening) - 1), *targets),
            label=label,
            context=int(label is None and self._two_contexts),
        )

    @property
    def _two_contexts(self) -> bool:
        return self.config.architecture == "seq2seq" and self.config.task_signal == "prefix"

    def _answer(self, word: str, text: str) -> list[int]:
        if self.causal:
            return continuation_ids(self.tokenizer, word.rstrip(), text)
        return target_ids(self.tokenizer, text)

    def _label_branch(self, index: int, name: str) -> Branch:
        if self.config.architecture == "classifier":
            return Branch((), (), index)
        answer = self._answer(self.prompt.predict, name)
        return self._branch(self.prompt.predict, self.tokens.predict, answer, index)

    def _rationale_branch(self, rationale: str) -> Branch:
        answer = self._answer(self.prompt.explain, rationale)[: self.config.max_rationale_tokens]
        return self._branch(self.prompt.explain, self.tokens.explain, answer, None)

    def _taught(self, branch: Branch, pair: TrainingPair) -> Branch:
        if not pair.rationale or not pair.rationale_odds:
            return branch
        answer = branch.targets[-branch.target_count : -1]
        odds = taught_targets(*self._bytes, answer, pair.rationale, pair.rationale_odds)
        opening: tuple[Odds, ...] = ((),) * (len(branch.targets) - branch.target_count)
        return replace(branch, taught=(*opening, *odds, ()))

    @cached_property
    def _bytes(self) -> tuple[dict[int, bytes], dict[bytes, int]]:
        """The vocabulary as bytes and back; read only where a teacher's tokens are learnt."""
        known = vocabulary_bytes(self.tokenizer)
        return known, {text: token for token, text in known.items()}

    def _soft(self, pair: TrainingPair) -> tuple[float, ...] | None:
        if pair.probabilities is None:
            return None
        values = [max(0.0, pair.probabilities.get(name, 0.0)) for name in self.task.label_names]
        total = sum(values)
        return tuple(v / total for v in values) if total > 0 else None


def _asking(branch: Branch, prompt_target: int) -> Branch:
    """The branch with its task word asked for `prompt_target`, as in FinGPT's published code."""
    targets = tuple(prompt_target if t == IGNORE else t for t in branch.targets)
    return replace(branch, targets=targets)


def encode_pairs(
    encoder: Encoder, pairs: Sequence[TrainingPair], **options: bool | int | Copying | None
) -> list[EncodedExample]:
    """Encode all pairs in order. Raises ValueError for a label outside the task."""
    return [encoder.encode_pair(pair, **options) for pair in pairs]  # type: ignore[arg-type]
