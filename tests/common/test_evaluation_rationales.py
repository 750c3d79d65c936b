"""What rationales are worth: overlap, figures, terms, agreement with the label."""

from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from common.config.run import EvaluationConfig
from common.errors import ConfigError, InputError
from common.evaluation.compare import compare_systems
from common.evaluation.comparison import Judged, ReportContext
from common.evaluation.encoders import bert_scores, sentence_similarities
from common.evaluation.evaluate import evaluate_system
from common.evaluation.finance_terms import load_terms
from common.evaluation.quantities import Figure, figures_in, number_accuracy
from common.evaluation.rationales import (
    label_agreement,
    rationale_scores,
    term_recall,
    word_overlap,
)
from common.records import Example, Prediction, SystemCard, TeacherAnswer
from common.task import load_task

TASK = load_task("sentiment")
TERMS = load_terms()
WORDS = TERMS.direction_of


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("Net sales rose by 12 % to EUR 3.4 mn", [Figure(12, "%", 1), Figure(3.4e6, "EUR", 1)]),
        ("turnover of EUR131m", [Figure(131e6, "EUR")]),
        ("costs fell 5 percent, orders rose 7 pct", [Figure(5, "%", -1), Figure(7, "%", 1)]),
        ("a US$22 million stone", [Figure(22e6, "USD")]),
        ("1,234,567 shares", [Figure(1234567, "")]),
        ("by about 200 basis points", [Figure(200, "bp")]),
        ("a result of -4.5%", [Figure(-4.5, "%")]),
        ("in 2009 EUR 1.5 bn", [Figure(2009, ""), Figure(1.5e9, "EUR")]),
        ("3 million euros", [Figure(3e6, "EUR")]),
        ("the 5G unit in Q3", []),
        ("no figures", []),
    ],
)
def test_figures_are_read_with_unit_and_direction(text: str, figures: list[Figure]) -> None:
    assert figures_in(text, WORDS) == figures


@pytest.mark.parametrize(
    ("rationale", "share"),
    [
        ("Profit rose 12 percent to 3.4 million euros.", 1.0),
        ("Profit reached 3,400,000.", 1.0),
        ("Profit fell 12 %.", 0.0),
        ("Profit rose to USD 3.4 million.", 0.0),
        ("A rise of 13 %, to EUR 3.4 mn.", 0.5),
        ("Good news for the company.", None),
    ],
)
def test_number_accuracy_holds_value_unit_and_direction(
    rationale: str, share: float | None
) -> None:
    text = "Profit rose 12 % to EUR 3.4 mn."

    assert number_accuracy(rationale, text, WORDS) == share


def test_terms_are_found_by_their_longest_form() -> None:
    found = TERMS.found("Operating profit and net sales grew; the order book is full")

    assert found == {"operating profit", "net sales", "order"}


def test_no_form_stands_under_two_terms() -> None:
    forms = [form for term in [*TERMS.statements, *TERMS.news] for form in term]

    assert sorted(forms) == sorted(set(forms))


def test_a_term_list_with_faults_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "terms.yaml"
    path.write_text("statements: [[revenue]]\nnewz: []\n")

    with pytest.raises(ConfigError, match="newz"):
        load_terms(path)


def test_term_recall_by_hand() -> None:
    source = "Revenue and operating profit fell while the dividend was cut."

    assert term_recall("Lower revenue and dividend.", source, TERMS) == pytest.approx(2 / 3)
    assert term_recall("Anything", "Nothing of the kind", TERMS) is None


@pytest.mark.parametrize(
    ("rationale", "label", "score"),
    [
        ("This is positive for the company.", "positive", 1.0),
        ("A bearish sign.", "positive", 0.0),
        ("Neither positive nor negative.", "neutral", None),
        ("Orders grew.", "positive", None),
    ],
)
def test_a_rationale_agrees_with_the_label_it_names(
    rationale: str, label: str, score: float | None
) -> None:
    assert label_agreement(rationale, label, TASK) == score


def test_word_overlap_by_hand() -> None:
    assert word_overlap("Sales rose.", "sales fell") == pytest.approx(1 / 3)


def answered(rationale: str) -> tuple[list[Example], list[Prediction], dict[str, TeacherAnswer]]:
    gold = [Example(id="a", text="Orders rose 5 %.", label="positive")]
    said = [Prediction(example_id="a", label="positive", rationale=rationale)]
    teacher = TeacherAnswer(
        example_id="a", teacher="t", label="positive", rationale="Rising orders help revenue."
    )
    return gold, said, {"a": teacher}


def test_overlap_scores_are_those_of_the_libraries() -> None:
    gold, said, answers = answered("Orders that rise help revenue.")

    found = rationale_scores(gold, said, TASK, answers)

    mine, theirs = said[0].rationale or "", answers["a"].rationale or ""
    rouge = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(theirs, mine)
    assert found["rouge1"][0] == pytest.approx(rouge["rouge1"].fmeasure)
    assert found["rougeL"][0] == pytest.approx(rouge["rougeL"].fmeasure)
    assert found["bleu"][0] == pytest.approx(sacrebleu.sentence_bleu(mine, [theirs]).score / 100)


def test_without_a_teacher_only_the_scores_that_stand_alone_remain() -> None:
    gold, said, _ = answered("Orders rose 5 %, which is positive.")

    found = rationale_scores(gold, said, TASK, {})

    assert set(found) == {"number_accuracy", "term_recall", "label_agreement", "words"}
    assert found["number_accuracy"][0] == 1.0
    assert found["term_recall"][0] == 1.0


def test_texts_without_rationale_do_not_count() -> None:
    gold, said, answers = answered("Orders rose 5 %.")
    gold.append(Example(id="b", text="t", label="neutral"))
    said.append(Prediction(example_id="b", label="neutral", rationale="  "))

    report = evaluate_system(
        SystemCard(name="s", role="student", title="S"),
        gold,
        said,
        TASK,
        EvaluationConfig(bootstrap=100),
        "toy",
        "0" * 64,
        teacher_answers=answers,
    )

    assert {score.n for score in report.rationales.values()} == {1}


def test_a_system_without_rationales_has_no_rationale_scores() -> None:
    gold = [Example(id="a", text="t", label="neutral")]

    assert rationale_scores(gold, [Prediction(example_id="a", label="neutral")], TASK, {}) == {}


def test_a_teacher_is_not_compared_with_itself() -> None:
    gold, said, answers = answered("Rising orders help revenue.")

    report = evaluate_system(
        SystemCard(name="t", role="teacher", title="T"),
        gold,
        said,
        TASK,
        EvaluationConfig(bootstrap=100),
        "toy",
        "0" * 64,
        teacher_answers=answers,
    )

    assert "rouge1" not in report.rationales


def test_an_encoder_that_is_no_folder_is_refused() -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        sentence_similarities(["a"], ["b"], "./no-such-encoder")


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of random weights, 16 wide: it scores, and means nothing."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["profit", "rose", "fell", "strongly", "ferry"]
    vocabulary = {word: i for i, word in enumerate(words)}
    BertTokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_encoder_scores_are_tested_pair_by_pair(tiny_encoder: str) -> None:
    rng = np.random.default_rng(0)
    words = ["profit", "rose", "fell", "strongly", "ferry"]
    gold = [Example(id=str(i), text=f"Text {i}.", label="neutral") for i in range(12)]
    said = {e.id: " ".join(rng.choice(words, 5)) for e in gold}
    teacher = {
        i: TeacherAnswer(example_id=i, teacher="t", label="neutral", rationale=text)
        for i, text in said.items()
    }
    settings = EvaluationConfig(bootstrap=200, encoder=tiny_encoder)
    systems = []
    for name in ("one", "two"):
        predictions = [
            Prediction(
                example_id=e.id,
                label="neutral",
                rationale=said[e.id] if name == "one" else " ".join(rng.choice(words, 5)),
            )
            for e in gold
        ]
        card = SystemCard(name=name, role="student", title=name)
        report = evaluate_system(
            card, gold, predictions, TASK, settings, "d", "f", teacher_answers=teacher
        )
        systems.append(Judged(report, predictions))

    (pair,) = compare_systems(
        systems, gold, TASK, settings, context=ReportContext(teacher_answers=teacher)
    ).pairs

    tests = {test.score: test for test in pair.scores}
    for name in ("sentence_similarity", "bertscore"):
        means = [system.report.rationales[name].mean.value for system in systems]
        assert (tests[name].mean_first, tests[name].mean_second) == pytest.approx(tuple(means))
        assert tests[name].mean_first == pytest.approx(1.0, abs=1e-4)
        assert tests[name].resampled.interval.low > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_encoder_scores_rank_a_paraphrase_above_a_stranger(shared: Path) -> None:
    encoder = str(shared / "models" / "all-MiniLM-L6-v2")
    mine = ["Profit rose strongly.", "Profit rose strongly."]
    theirs = ["Earnings increased a lot.", "The ferry leaves at noon."]

    cosine = sentence_similarities(mine, theirs, encoder)
    bert = bert_scores(mine, theirs, encoder)

    assert cosine[0] > cosine[1] + 0.3
    assert bert[0] > bert[1]
    assert np.all(cosine <= 1.0001)


def test_a_figure_whose_decimals_stand_apart_is_one_figure() -> None:
    assert figures_in("Sales were EUR74 .8 m, from EUR995 ,000.", WORDS) == [
        Figure(74_800_000, "EUR"),
        Figure(995_000, "EUR"),
    ]
