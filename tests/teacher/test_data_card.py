"""The page beside a labelled set, and the terms that decide what may be trained on."""

import datetime
from pathlib import Path

import pytest

from common.config.teacher import ClaudeTeacher, RecordedTeacher, VllmTeacher
from common.errors import ConfigError, UsageError
from common.records import Interval
from common.task import load_task
from teacher.agreement import PairAgreement, TeacherFigures, TeachersReport
from teacher.data_card import CardFacts, Origin, origin_of, render_card, terms_line
from teacher.prompts import load_prompt
from teacher.terms import check_terms, load_terms, terms_of

TASK = load_task("sentiment")


def figures(teacher: str, **more: object) -> TeacherFigures:
    return TeacherFigures.model_validate(
        {
            "teacher": teacher,
            "models": [],
            "texts": 1200,
            "answers": 1199,
            "unanswered": {"refused": 1},
            "cached": 3,
            "input_tokens": 5,
            "output_tokens": 6,
            "usd": 1.5,
            "usd_paid": 0.25,
            **more,
        }
    )


def card(origins: list[Origin], dropped: dict[str, int] | None = None) -> str:
    report = TeachersReport(
        labels=["dry", "wet"],
        kind="weighted",
        texts=1200,
        sampled=1200,
        judged=800,
        probe_rows=64,
        accuracy=Interval(value=0.95, low=0.93, high=0.965),
        teachers=[
            figures(
                "claude-haiku-4-5",
                accuracy=Interval(value=0.9, low=0.88, high=0.92),
                accuracy_without=0.92,
                unlabelled_without=7,
                confusion=[[10, 2], [3, 1234]],
            ),
            figures("mixtral", learned_accuracy=0.871),
        ],
        pairs=[
            PairAgreement(
                first="claude-haiku-4-5", second="mixtral", texts=1000, agreed=0.9, kappa=0.8123
            )
        ],
    )
    facts = CardFacts(
        title="Labelled set of night-0123456789",
        task="Weather",
        data="night reports",
        data_fingerprint="ab" * 32,
        licences=["CC0"],
        collected=datetime.date(2026, 11, 20),
        counts={"train": {"dry": 700, "wet": 350}, "validation": {"dry": 80, "wet": 40}},
        kept=1170,
        dropped={"refused": 20, "low_confidence": 10} if dropped is None else dropped,
        with_rationale=1100,
        origins=origins,
    )
    return render_card(facts, report)


ORIGIN = Origin(
    teacher="claude-haiku-4-5",
    how="Anthropic API, batch",
    models=["claude-haiku-4-5"],
    prompt="weather-v1 v1, 0123456789abcdef",
    rationale="after_label",
    samples=1,
)


def test_the_card_gives_counts_drops_cost_agreement_and_what_each_teacher_added() -> None:
    text = card([ORIGIN])

    assert "Collected 2026-11-20: 1,170 texts with a label, 1,100 of them with a rationale." in text
    assert "| train | 700 | 350 | 1,050 |" in text
    assert "| refused | 20 |" in text
    assert "| low_confidence | 10 |" in text
    assert "90.0 % [88.0, 92.0]" in text
    assert "| $1.50 | $0.2500 |" in text
    assert "| claude-haiku-4-5 | mixtral | 1,000 | 90.0 % | 0.812 |" in text
    assert "| claude-haiku-4-5 | 95.0 % | 92.0 % | +3.00 | 7 |" in text
    assert "| wet | 3 | 1,234 |" in text
    assert "64 gold texts of the training part" in text


def test_the_card_names_prompt_model_lifecycle_and_terms() -> None:
    text = card([ORIGIN])

    assert "weather-v1 v1, 0123456789abcdef" in text
    assert "claude-haiku-4-5 (legacy; claude-haiku-5-5 is current)" in text
    assert "- Texts: CC0" in text
    assert "may not be used to build a competing product" in text
    assert "read 2026-11-20" in text


def test_a_card_without_drops_says_so() -> None:
    assert "## Dropped rows\n\nNone.\n" in card([ORIGIN], dropped={})


def test_every_table_row_has_as_many_cells_as_its_header() -> None:
    tables = [block.splitlines() for block in card([ORIGIN]).split("\n\n") if block[0] == "|"]

    assert len(tables) >= 6
    for table in tables:
        assert {row.count("|") for row in table} == {table[0].count("|")}


def test_an_origin_names_the_prompt_with_its_fingerprint_and_a_recorded_one_does_not() -> None:
    bound = load_prompt("sentiment-v1").bind(TASK, "before_label")
    claude = ClaudeTeacher(kind="claude", model="claude-haiku-5-5", rationale="before_label")
    recorded = RecordedTeacher(kind="recorded", answers=Path("folder/answers.jsonl"))

    asked = origin_of(claude, "claude", ["claude-haiku-5-5"], TASK)
    read = origin_of(recorded, "claude", [], TASK)

    assert asked.prompt == f"sentiment-v1 v1, {bound.fingerprint[:16]}"
    assert asked.how == "Anthropic API, live"
    assert (read.prompt, read.how) == (None, "recorded in answers.jsonl")


def test_the_temperature_of_a_vllm_teacher_is_on_the_card() -> None:
    config = VllmTeacher(kind="vllm", model="meta-llama/Llama-3.1-8B-Instruct", temperature=0.7)

    assert origin_of(config, "llama", [], TASK).how == "vLLM, server, temperature 0.7"


def test_llama_asks_for_its_name_in_the_models_name() -> None:
    line = terms_line(["labeller", "meta-llama/Llama-3.1-8B-Instruct"])

    assert 'A distributed model is called "Llama…".' in line


def test_unknown_terms_are_said_to_be_unknown() -> None:
    assert "has no entry" in terms_line(["some-new-model"])


@pytest.mark.parametrize("name", ["gpt-4-0125-preview", "openai/GPT-4o", "o3-mini", "llama2-70b"])
def test_answers_for_comparison_only_are_not_trained_on(name: str) -> None:
    with pytest.raises(UsageError, match=r"labelling\.accept_terms=\["):
        check_terms([name], [])


def test_the_model_that_answered_counts_whatever_the_teacher_is_called() -> None:
    with pytest.raises(UsageError, match="teacher 'my-teacher': OpenAI API"):
        check_terms(["my-teacher", "gpt-4-0125-preview"], [])


def test_the_owner_may_accept_terms_by_name() -> None:
    check_terms(["gpt-4-0125-preview"], ["openai"])


@pytest.mark.parametrize(
    "name", ["claude-haiku-5-5", "llama-3.1-8b-instruct", "mixtral-8x7b-instruct-v0.1", "unknown"]
)
def test_other_teachers_may_be_trained_on(name: str) -> None:
    check_terms([name], [])


def test_a_misspelt_entry_in_accept_terms_is_refused() -> None:
    with pytest.raises(ConfigError, match="'opnai', did you mean 'openai'"):
        check_terms(["claude"], ["opnai"])


def test_every_entry_of_the_table_is_dated_and_names_its_source() -> None:
    entries = load_terms()

    assert len({entry.name for entry in entries}) == len(entries) >= 4
    assert all(entry.source and entry.says for entry in entries)
    assert terms_of(["claude-haiku-5-5"]) is not None


def test_a_broken_table_of_terms_names_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "terms.yaml"
    path.write_text("- name: x\n  match: []\n  service: y\n", encoding="utf-8")

    with pytest.raises(ConfigError, match="training"):
        load_terms(path)
