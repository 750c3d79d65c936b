"""Token decisions with real tokenizers where they are at hand, and with our own everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from common.config.student import StudentConfig, TinyShape
from common.errors import StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.encoding import Encoder, TaskTokens
from student.models.tiny import train_tokenizer
from student.tokens import continuation_ids, fitting_text, load_tokenizer, start_tokens, target_ids

TEXTS = ["Profit rose by 10 %.", "predict: positive", "explain: neutral", "negative"] * 5


@pytest.fixture(scope="module")
def bpe() -> Any:
    return train_tokenizer(TEXTS, TinyShape(family="gpt2", vocabulary=400))


def test_continuation_has_its_space_inside_as_in_running_text(bpe: Any) -> None:
    ids = continuation_ids(bpe, "predict:", "positive")

    assert bpe.decode(ids) == " positive"
    assert bpe("predict: positive")["input_ids"] == [*bpe("predict:")["input_ids"], *ids]


@pytest.mark.parametrize(
    ("folder", "anchor", "expected"),
    [
        ("tokenizer-gpt2", "predict:", ["Ġpositive"]),
        ("stories260K", "predict:", None),
    ],
)
def test_real_causal_tokenizers_score_the_label_as_in_running_text(
    shared_models: Path, folder: str, anchor: str, expected: list[str] | None
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(shared_models / folder)

    ids = continuation_ids(tokenizer, anchor, "positive")

    if expected:
        assert tokenizer.convert_ids_to_tokens(ids) == expected
    joint = tokenizer(f"{anchor} positive", add_special_tokens=False)["input_ids"]
    assert joint == [*tokenizer(anchor, add_special_tokens=False)["input_ids"], *ids]


def test_real_t5_label_is_one_piece_and_sentinels_start_the_tasks(shared_models: Path) -> None:
    tokenizer: Any = load_tokenizer(str(shared_models / "tokenizer-t5"))

    assert tokenizer.convert_ids_to_tokens(target_ids(tokenizer, "positive")) == ["▁positive"]
    assert start_tokens(tokenizer) == (
        tokenizer.convert_tokens_to_ids("<extra_id_0>"),
        tokenizer.convert_tokens_to_ids("<extra_id_1>"),
    )


def test_long_text_is_cut_at_its_end_and_keeps_the_words_around(bpe: Any) -> None:
    long = "Profit rose by 10 %. " * 40

    ids = fitting_text(bpe, "predict: ", long, " explain:", 30)

    text = bpe.decode(ids)
    assert len(ids) <= 30
    assert text.startswith("predict: Profit rose")
    assert text.endswith(" explain:")


@pytest.mark.parametrize(
    "text", ["to the moon 🚀🚀 ", "利润增长百分之十。", "5½ % to 2¼ ", "👩‍👩‍👧e\u0301 "]
)
def test_text_of_many_byte_characters_is_cut_between_them_at_any_limit(bpe: Any, text: str) -> None:
    for limit in range(24, 80):
        ids = fitting_text(bpe, "predict: ", text * 40, " explain:", limit)

        kept = bpe.decode(ids).removeprefix("predict: ").removesuffix(" explain:")
        assert len(ids) <= limit
        assert (text * 40).startswith(kept), limit
        assert limit - len(ids) < 8, "more was cut than a character or two"


def test_prompt_that_alone_exceeds_the_limit_is_refused(bpe: Any) -> None:
    with pytest.raises(StudentError, match="max_input_tokens"):
        fitting_text(bpe, "predict: " * 9, "Profit", "", 5)


def test_tokenizer_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{broken")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')

    with pytest.raises(StudentError, match="no tokenizer could be read"):
        load_tokenizer(str(tmp_path))


def encoder_for(task: TaskDefinition, bpe: Any, config: StudentConfig) -> Encoder:
    return Encoder(config, task, bpe, TaskTokens(0, 0, end=1, pad=0))


def test_published_prompt_is_read_word_for_word(
    task: TaskDefinition, bpe: Any, tiny: Callable[..., StudentConfig]
) -> None:
    config = tiny("causal", "gpt2", prompt="fingpt")
    encoder = encoder_for(task, bpe, config)
    pair = TrainingPair(example_id="1", text="Profit rose.", label="positive")

    example = encoder.encode_pair(pair)

    read = bpe.decode([*example.contexts[0], *example.branches[0].inputs])
    assert read == (
        "Instruction: What is the sentiment of this news? Please choose an answer from "
        "{negative/neutral/positive}.\nInput: Profit rose.\nAnswer: positive"
    )


def test_published_bug_asks_prompt_positions_for_padding_and_the_repair_does_not(
    task: TaskDefinition, bpe: Any, tiny: Callable[..., StudentConfig]
) -> None:
    from student.batches import causal_batch, label_tokens

    encoder = encoder_for(task, bpe, tiny("causal", "gpt2", prompt="fingpt"))
    pair = TrainingPair(example_id="1", text="Profit rose.", label="positive")

    published = encoder.encode_pair(pair, prompt_target=0)
    repaired = encoder.encode_pair(pair)

    targets = causal_batch([published], 0, row_tokens=512)["targets"][0].tolist()
    answer = [t for t in repaired.branches[0].targets if t != -100]
    prompt = [*repaired.contexts[0], *repaired.branches[0].inputs[: 1 - len(answer)]]
    # FinGPT's tokenize: labels = [pad] * len(prompt) + answer; the model shifts them by one.
    assert targets == ([0] * len(prompt) + answer)[1:]
    assert label_tokens(published) == len(prompt) - 1 + len(answer)
    fixed = causal_batch([repaired], 0, row_tokens=512)["targets"][0].tolist()
    assert [t for t in fixed if t != -100] == answer
