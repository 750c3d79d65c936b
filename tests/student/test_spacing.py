"""Figures that a WordPiece tokenizer took apart come back in one piece."""

import json
from collections import Counter
from pathlib import Path
from string import ascii_lowercase, digits, punctuation
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from common.evaluation.finance_terms import load_terms
from common.evaluation.quantities import figures_in
from student.generation import readable
from student.spacing import forgets_spaces, respaced

CORPUS = Path(__file__).parents[2] / "configs" / "demo" / "corpus.jsonl"
ANSWERS = CORPUS.with_name("claude_answers_train.jsonl")
DIRECTIONS = load_terms().direction_of
END = 1


def letters(decoder: decoders.Decoder, splitter: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """A tokenizer of single characters: what matters here is where it splits."""
    singles = [*ascii_lowercase, *digits, *punctuation, *"€£¥₱"]
    names = ["[UNK]", "[SEP]", *singles, *(f"##{single}" for single in singles)]
    model = models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoder
    return tokenizer


def wrapped(tokenizer: Tokenizer) -> Any:
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, unk_token="[UNK]")


WORD_PIECES = wrapped(letters(decoders.WordPiece(), pre_tokenizers.BertPreTokenizer()))
WHOLE = wrapped(letters(decoders.WordPiece(cleanup=False), pre_tokenizers.WhitespaceSplit()))


def come_back(text: str) -> str:
    tokens = WORD_PIECES(text, add_special_tokens=False)["input_ids"]
    return respaced(WORD_PIECES.decode(tokens))


def figures(text: str) -> Counter[tuple[float, str]]:
    found = figures_in(text, DIRECTIONS)
    return Counter((figure.value, figure.unit) for figure in found)


@pytest.mark.parametrize(
    ("decoded", "meant"),
    [
        ("1. 5 million", "1.5 million"),
        ("2007 / 08", "2007/08"),
        ("rose 10 % to eur 1. 2m", "rose 10% to eur 1.2m"),
        ("$ 1, 200, 000. 50 in 2006, 2007 and 2008", "$1,200,000.50 in 2006, 2007 and 2008"),
        ("in 2009, 150 people left", "in 2009, 150 people left"),
        ("the third - quarter loss of - 5 %", "the third-quarter loss of -5%"),
        ("eps was eur - 0. 04", "eps was eur -0.04"),
        ("10 - 15 % of 3. 4 - 3. 6", "10-15% of 3.4-3.6"),
        ("a $ 5 loss, us $ 7", "a $5 loss, us$7"),
        ("nokia ' s $ 60 million bid ( 4. 33 a share )", "nokia's $60 million bid (4.33 a share)"),
        ("the firm ' s r & d ; costs : none", "the firm's r&d; costs: none"),
        ("it ended in q3. sales rose", "it ended in q3. sales rose"),
        ("covid - 19", "covid-19"),
        ("", ""),
    ],
)
def test_the_likeliest_spaces_are_put_back(decoded: str, meant: str) -> None:
    assert respaced(decoded) == meant
    assert respaced(meant) == meant, "what is in order stays"


def test_without_this_the_tokenizer_takes_figures_apart() -> None:
    tokens = WORD_PIECES("rose 1.5 %", add_special_tokens=False)["input_ids"]
    assert WORD_PIECES.decode(tokens) == "rose 1. 5 %"
    assert readable(WORD_PIECES, [[*tokens, END, *tokens]], END) == ["rose 1.5%"]


def test_a_tokenizer_that_keeps_spaces_is_left_alone() -> None:
    assert forgets_spaces(WORD_PIECES)
    assert not forgets_spaces(WHOLE)
    tokens = WHOLE("on page 1. 5 % more", add_special_tokens=False)["input_ids"]
    assert readable(WHOLE, [tokens], END) == ["on page 1. 5 % more"]


def test_the_shipped_corpus_keeps_its_figures() -> None:
    texts = [json.loads(line)["text"] for line in CORPUS.read_text().splitlines()]
    texts += [json.loads(line)["rationale"] for line in ANSWERS.read_text().splitlines()]
    with_figures = [text for text in texts if figures(text)]
    lost = [text for text in with_figures if figures(text) != figures(come_back(text))]
    assert len(with_figures) == 1_209
    # Australian dollars: "a$5" comes back as "a $5", which an article and US dollars would be too.
    assert all("A$" in text for text in lost)
    assert len(lost) == 27


def test_real_sentences_keep_their_figures_through_a_real_tokenizer() -> None:
    shared = Path(__file__).parents[2].parent / "shared"
    texts, model = shared / "data/fpb/fpb.jsonl", shared / "models/all-MiniLM-L6-v2"
    if not (texts.exists() and model.exists()):
        pytest.skip("needs ../shared, which only the project's own machines have")
    tokenizer = AutoTokenizer.from_pretrained(model)
    sentences = [json.loads(line)["sentence"] for line in texts.read_text().splitlines()]
    sentences = [sentence for sentence in sentences if figures(sentence)]
    tokens = tokenizer(sentences, add_special_tokens=False)["input_ids"]
    back = map(respaced, tokenizer.batch_decode(tokens))
    lost = sum(figures(a) != figures(b) for a, b in zip(sentences, back, strict=True))
    assert (lost, len(sentences)) == (17, 2526)


AMOUNTS = st.one_of(
    st.integers(0, 999_999_999).map(lambda n: f"{n:,}"),
    st.integers(0, 99_999).map(lambda n: f"{n / 100:.2f}"),
    st.integers(1900, 2100).map(str),
)
FIGURES = st.builds(
    str.format,
    st.sampled_from(["{} %", "{}%", "EUR {} mn", "EUR {}", "${} million", "€{} bn", "{} shares"]),
    AMOUNTS,
)
WORDS = st.sampled_from(["sales", "rose", "fell", "to", "from", "the year-earlier", "profit", "by"])


@given(st.lists(st.tuples(WORDS, FIGURES, st.sampled_from(["", ",", ".", ";"])), max_size=6))
def test_any_sentence_keeps_its_figures(parts: list[tuple[str, str, str]]) -> None:
    text = " ".join(f"{word} {figure}{stop}" for word, figure, stop in parts)
    assert figures(come_back(text)) == figures(text)
