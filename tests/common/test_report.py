"""A comparison and its page: what it says, what it must not say, what it must survive."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from common.config.run import EvaluationConfig
from common.data.store import write_records
from common.errors import ConfigError, InputError
from common.evaluation.compare import compare_systems
from common.evaluation.comparison import Comparison, Judged, ReportContext
from common.evaluation.counts import METRICS
from common.evaluation.evaluate import evaluate_system
from common.evaluation.figures import cost_figure
from common.evaluation.files import JudgedFile, compare_files, evaluate_file
from common.evaluation.page import flat_facts
from common.evaluation.published import figures_for, load_published
from common.evaluation.render import render_html, render_markdown, terminal_rows
from common.evaluation.same_answers import each_once
from common.evaluation.verdicts import display_name, p_value
from common.records import EvaluationReport, Example, Prediction, Subset, SystemCard, TeacherAnswer
from common.task import TaskDefinition, load_task

TASK = load_task("sentiment")
QUICK = EvaluationConfig(bootstrap=200)
NASTY = '</script><img src=x onerror="alert(1)"> & <b>bold</b>'
FPB = {"data": {"kind": "fpb", "agreement": 50, "split": {"kind": "fingpt", "seed": 42}}}


def cards() -> list[tuple[SystemCard, float]]:
    return [
        (
            SystemCard(
                name="student",
                role="student",
                title="Student",
                parameters=49_200_000,
                disk_bytes=197_000_000,
                usd_per_1000=0.002,
                training_seconds=61,
            ),
            0.9,
        ),
        (SystemCard(name="lora", role="baseline", title="LoRA baseline", tiny=True), 0.6),
        (SystemCard(name="teacher", role="teacher", title="Teacher", usd_per_1000=0.9), 0.92),
    ]


def examples(n: int = 120, text: str = "Orders of the invented company rose.") -> list[Example]:
    names = TASK.label_names
    levels = (50, 100)
    return [
        Example(
            id=f"t{i}",
            text=f"{text} {i}",
            label=names[i % len(names)],
            meta={"agreement": levels[i % 2]},
        )
        for i in range(n)
    ]


def answers(gold: list[Example], accuracy: float, seed: int) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    names = TASK.label_names
    found = []
    for example in gold:
        right = rng.random() < accuracy
        label = example.label if right else names[int(rng.integers(len(names)))]
        rest = 0.4 / (len(names) - 1)
        chances = {name: 0.6 if name == label else rest for name in names}
        found.append(
            Prediction(
                example_id=example.id, label=label, probabilities=chances, rationale=f"<i>{label}"
            )
        )
    return found


def judged(gold: list[Example], system: SystemCard, accuracy: float, seed: int = 0) -> Judged:
    said = answers(gold, accuracy, seed)
    return Judged(evaluate_system(system, gold, said, TASK, QUICK, "toy set", "d" * 64), said)


def comparison(gold: list[Example] | None = None, **context: object) -> Comparison:
    gold = gold or examples()
    systems = [judged(gold, card, accuracy, i) for i, (card, accuracy) in enumerate(cards())]
    return compare_systems(
        systems, gold, TASK, QUICK, context=ReportContext.model_validate(context)
    )


def with_chances(prediction: Prediction, *chances: float) -> Prediction:
    given = dict(zip(TASK.label_names, chances, strict=True))
    return prediction.model_copy(update={"probabilities": given})


class Page(HTMLParser):
    """Collects elements, and text by element, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "script" in self._inside:
            self.scripts.append(data)
        elif "style" not in self._inside:
            self.text += data


def test_the_page_says_what_the_comparison_says() -> None:
    found = comparison()

    page = Page(render_html(found))

    for verdict in found.verdicts:
        assert verdict in page.text
    assert found.headline in page.text
    for report in found.systems:
        assert f"{report.metrics['accuracy'].value:.3f}" in page.text


def test_no_text_can_start_markup_of_its_own() -> None:
    gold = [e.model_copy(update={"text": NASTY}) for e in examples(30)]
    card = SystemCard(name="n", role="student", title=NASTY, notes=[NASTY])
    said = [Prediction(example_id=e.id, label=None, raw=NASTY, rationale=NASTY) for e in gold]
    systems = [
        Judged(evaluate_system(card, gold, said, TASK, QUICK, NASTY, "d" * 64), said),
        judged(gold, cards()[1][0], 0.5).__class__(
            evaluate_system(
                cards()[1][0], gold, answers(gold, 0.5, 1), TASK, QUICK, NASTY, "d" * 64
            ),
            answers(gold, 0.5, 1),
        ),
    ]
    context = ReportContext(
        title=NASTY,
        commands=[NASTY],
        notes=[NASTY],
        licences=[NASTY],
        config={NASTY: NASTY},
        hardware={NASTY: NASTY},
        teacher={"x": {NASTY: [NASTY]}},
    )

    page = Page(render_html(compare_systems(systems, gold, TASK, QUICK, context=context)))

    assert "img" not in {tag for tag, _ in page.elements}
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert json.loads(page.scripts[0])["rows"][0][1] == NASTY


def test_the_page_asks_nothing_of_any_server() -> None:
    source = render_html(comparison())
    page = Page(source)

    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (name, value)
    assert "@import" not in source
    assert "url(" not in source
    policy = next(a for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_every_control_has_a_name_and_headings_are_in_order() -> None:
    page = Page(render_html(comparison()))

    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for t, a in page.elements if t == "a"]
    assert {str(link)[1:] for link in links} <= set(ids)
    levels = [int(t[1]) for t, _ in page.elements if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    charts = [a for t, a in page.elements if t == "svg" and "aria-hidden" not in a]
    assert charts
    assert all(a.get("role") == "img" for a in charts)


def test_tiny_stands_wherever_a_tiny_models_numbers_stand() -> None:
    found = comparison()

    markdown, (_, rows) = render_markdown(found), terminal_rows(found)

    assert "LoRA baseline (tiny)" in markdown
    assert rows[1][0] == "LoRA baseline (tiny)"
    assert any("LoRA baseline (tiny)" in verdict for verdict in found.verdicts)
    text = Page(render_html(found)).text
    assert not re.search(r"LoRA baseline(?! \(tiny\))", text)


def test_the_constant_answer_stands_in_every_table() -> None:
    found = comparison()

    assert found.constant is not None
    assert found.constant.metrics["accuracy"].value == pytest.approx(1 / 3)
    assert terminal_rows(found)[1][-1][0] == f"always {found.constant_label}"


def test_a_majority_baseline_is_that_row_already() -> None:
    gold = examples(30)
    card = SystemCard(name="majority", role="baseline", title="Majority")
    said = [Prediction(example_id=e.id, label=TASK.label_names[0]) for e in gold]
    systems = [
        judged(gold, cards()[0][0], 0.9),
        Judged(evaluate_system(card, gold, said, TASK, QUICK, "toy set", "d" * 64), said),
    ]

    found = compare_systems(systems, gold, TASK, QUICK, context=ReportContext())

    assert found.constant is None


def test_the_json_comes_back_as_the_same_comparison() -> None:
    found = comparison()

    again = Comparison.model_validate_json(found.model_dump_json())

    assert again == found
    assert json.loads(found.model_dump_json())["schema_version"] == 2


def test_families_are_stated_and_corrected_apart() -> None:
    found = comparison()

    assert [(f.name, f.size) for f in found.families] == [("primary", 2), ("secondary", 1)]
    alone = next(p for p in found.pairs if p.family == "secondary")
    assert alone.mcnemar.p_holm == alone.mcnemar.p
    raw = sorted(p.mcnemar.p for p in found.pairs if p.family == "primary")
    holm = sorted(p.mcnemar.p_holm or 0 for p in found.pairs if p.family == "primary")
    assert holm[0] == pytest.approx(min(2 * raw[0], 1))


def test_the_reference_can_be_named_and_must_exist() -> None:
    assert comparison(reference="teacher").reference == "teacher"
    with pytest.raises(InputError, match="nobody"):
        comparison(reference="nobody")


def test_systems_judged_on_other_texts_are_refused() -> None:
    gold = examples(30)
    one = judged(gold, cards()[0][0], 0.9)
    other = one.report.model_copy(update={"data_fingerprint": "e" * 64, "system": cards()[1][0]})

    with pytest.raises(InputError, match="same texts"):
        compare_systems(
            [one, Judged(other, one.predictions)], gold, TASK, QUICK, context=ReportContext()
        )


def test_two_systems_of_one_name_are_refused_and_of_one_title_told_apart() -> None:
    gold = examples(30)
    one = judged(gold, cards()[0][0], 0.9)
    twin = judged(gold, cards()[0][0].model_copy(update={"name": "b/student"}), 0.8, 5)

    with pytest.raises(InputError, match="name of its own"):
        compare_systems([one, one], gold, TASK, QUICK, context=ReportContext())
    found = compare_systems([one, twin], gold, TASK, QUICK, context=ReportContext())

    titles = [r.system.title for r in found.systems]
    assert titles == ["Student [student]", "Student [b/student]"]


def test_runs_of_one_recipe_are_told_apart_by_their_seeds() -> None:
    gold = examples(60)
    found = compare_systems(
        seeded_systems(gold)[:4], gold, TASK, QUICK, context=ReportContext()
    ).systems
    assert [r.system.title for r in found] == [
        f"{recipe} [seed {seed}]" for recipe in ("step by step", "label only") for seed in (1, 2)
    ]


def test_seeds_of_one_recipe_are_compared_as_a_group() -> None:
    gold = examples(150)
    systems = []
    for group, accuracy in (("step by step", 0.95), ("label only", 0.5)):
        for seed in (1, 2, 3):
            card = SystemCard(
                name=f"{group}-{seed}", role="student", title=group, group=group, seed=seed
            )
            systems.append(judged(gold, card, accuracy, seed + int(100 * accuracy)))

    found = compare_systems(systems, gold, TASK, QUICK, context=ReportContext())

    assert [(g.name, g.seeds) for g in found.groups] == [
        ("step by step", [1, 2, 3]),
        ("label only", [1, 2, 3]),
    ]
    assert found.verdicts[0].startswith("step by step is ahead of label only by")
    assert "over seeds (3 and 3) and texts" in found.verdicts[0]
    assert "Over seeds" in Page(render_html(found)).text
    assert "## Over seeds" in render_markdown(found)


def test_published_figures_stand_only_beside_their_own_texts() -> None:
    protocols = load_published()
    config = {"data": {**FPB["data"], "split": {**FPB["data"]["split"], "test_share": 0.25}}}  # type: ignore[dict-item]

    figures, notes = figures_for(protocols, 1212, config)

    assert {f.metrics.get("accuracy") for f in figures} >= {0.882, 0.856, 0.842, 0.811}
    assert all(figure.source and figure.faults for figure in figures)
    assert notes
    assert figures_for(protocols, 1000, config) == ([], [])
    assert figures_for(protocols, 1212, {"data": {"kind": "jsonl"}}) == ([], [])
    assert figures_for(protocols, 1212, {}) == ([], [])
    assert figures_for(protocols, 1212, {}, "fpb-fingpt")[0] == figures
    with pytest.raises(ConfigError, match="fpb-fingpt"):
        figures_for(protocols, 1212, {}, "fpb")
    assert comparison().published == []


def test_published_figures_are_marked_as_not_run_here() -> None:
    figures, notes = figures_for(load_published(), 1212, {}, "fpb-fingpt")
    found = comparison().model_copy(update={"published": figures, "published_notes": notes})

    for rendered in (Page(render_html(found)).text, render_markdown(found)):
        assert "Published, not run here" in rendered
        assert "72 %" in rendered


def test_the_page_stays_small_and_says_what_it_left_out() -> None:
    found = comparison(examples(400))
    long = [t.model_copy(update={"text": "A long sentence. " * 1000}) for t in found.texts]

    source = render_html(found.model_copy(update={"texts": long}))

    assert len(source.encode()) < 5_000_000
    assert "of 400 texts are here" in " ".join(Page(source).text.split())


def test_texts_that_systems_disagree_on_are_kept_first() -> None:
    gold = examples(60)
    few = QUICK.model_copy(update={"browse_rows": 5})
    systems = [judged(gold, card, accuracy, i) for i, (card, accuracy) in enumerate(cards())]

    found = compare_systems(systems, gold, TASK, few, context=ReportContext())

    assert len(found.texts) == 5
    assert found.texts_total == 60
    assert all(len({a.label for a in text.answers}) > 1 for text in found.texts)


def test_a_bare_comparison_of_one_system_renders() -> None:
    gold = [Example(id="a", text="t", label="neutral"), Example(id="b", text="u", label="positive")]
    card = SystemCard(name="s", role="baseline", title="S")
    said = [Prediction(example_id=i, label="neutral") for i in ("a", "b")]
    one = Judged(evaluate_system(card, gold, said, TASK, QUICK, "toy", "d" * 64), said)

    found = compare_systems([one], gold, TASK, QUICK, context=ReportContext())

    assert found.pairs == []
    assert "S reaches 0.500 accuracy." in Page(render_html(found)).text
    assert render_markdown(found)


def test_a_task_of_other_labels_renders(weather: TaskDefinition) -> None:
    gold = [Example(id=str(i), text="t", label="dry" if i % 3 else "wet") for i in range(30)]
    said = [Prediction(example_id=str(i), label="dry" if i % 2 else None) for i in range(30)]
    card = SystemCard(name="s", role="student", title="S")
    one = Judged(evaluate_system(card, gold, said, weather, QUICK, "toy", "d" * 64), said)

    source = render_html(compare_systems([one], gold, weather, QUICK, context=ReportContext()))

    assert "neutral" not in Page(source).text


def test_histories_and_the_teachers_answers_find_their_place() -> None:
    gold = examples(60)
    history: list[dict[str, float | None]] = [
        {"step": i, "loss": 2.0 / (i + 1), "grad_norm": 1.0, "eval_loss": None} for i in range(20)
    ]
    answer = TeacherAnswer(
        example_id="t1", teacher="t", label="positive", rationale="Because orders rose."
    )

    found = comparison(
        gold, histories={"student": history}, teacher_answers={"t1": answer.model_dump()}
    )
    page = Page(render_html(found))

    assert "Training loss" in page.text
    assert "Gradient norm" in page.text
    assert json.loads(page.scripts[0])["rows"][1][5][2] == "Because orders rose."


def test_parquet_files_give_the_comparison_of_the_records(tmp_path: Path) -> None:
    gold = examples(200)
    systems = [judged(gold, card, accuracy, i) for i, (card, accuracy) in enumerate(cards())]
    write_records(tmp_path / "gold.parquet", gold, Example)
    files = []
    for place, system in enumerate(systems):
        path = tmp_path / f"{place}.parquet"
        turned = system.predictions[::-1] if place else system.predictions
        write_records(path, turned, Prediction)
        report = evaluate_file(
            system.report.system, tmp_path / "gold.parquet", path, TASK, QUICK, "toy set", "d" * 64
        )
        plain = system.report.model_copy(update={"rationales": {}})
        assert report == plain
        files.append(JudgedFile(report, path))

    found = compare_files(files, tmp_path / "gold.parquet", TASK, QUICK, context=ReportContext())
    reference = compare_systems(systems, gold, TASK, QUICK, context=ReportContext())

    for ours, theirs in zip(found.pairs, reference.pairs, strict=True):
        assert ours.mcnemar == theirs.mcnemar
        assert ours.differences.keys() == theirs.differences.keys()
        assert ours.differences["macro_f1"] == theirs.differences["macro_f1"]
        assert ours.by_label == theirs.by_label
        means = {test.score: test.mean_first for test in theirs.scores}
        assert {test.score for test in ours.scores} >= {"negative_log_loss", "negative_brier"}
        assert all(test.mean_first == pytest.approx(means[test.score]) for test in ours.scores)
    assert found.texts == reference.texts
    assert found.verdicts == reference.verdicts


@pytest.mark.parametrize("fault", ["missing", "label", "ids", "negative", "shares"])
def test_parquet_files_with_faults_are_refused(tmp_path: Path, fault: str) -> None:
    gold = examples(5)
    said = answers(gold, 0.9, 0)
    write_records(tmp_path / "gold.parquet", gold, Example)
    changed = {
        "missing": said[:-1],
        "label": [said[0].model_copy(update={"label": "hawkish"}), *said[1:]],
        "ids": [said[0].model_copy(update={"example_id": "x"}), *said[1:]],
        "negative": [*said[1:], with_chances(said[0], 1.5, -0.5, 0.0)],
        "shares": [*said[1:], with_chances(said[0], 0.5, 0.2, 0.2)],
    }[fault]
    write_records(tmp_path / "said.parquet", changed, Prediction)

    told = {"label": "hawkish", "negative": "sum to 1", "shares": "sum to 1"}
    with pytest.raises(InputError, match=told.get(fault, "none for")):
        evaluate_file(
            cards()[0][0],
            tmp_path / "gold.parquet",
            tmp_path / "said.parquet",
            TASK,
            QUICK,
            "toy",
            "d" * 64,
        )


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0004, "p < 0.001"),
        (0.0123, "p = 0.012"),
        (0.0499, "p = 0.0499"),
        (0.04996, "p = 0.04996"),
        (0.0502, "p = 0.050"),
        (0.0498, "p = 0.0498"),
        (1.0, "p = 1.000"),
    ],
)
def test_a_printed_p_is_never_rounded_across_a_level(p: float, text: str) -> None:
    assert p_value(p) == text


def test_nested_facts_become_short_lines() -> None:
    facts = {
        "parts": {"train": {"rows": 12345}},
        "ids": list(range(40)),
        "tiny": True,
        "none": None,
    }

    assert flat_facts(facts) == {
        "parts train rows": "12,345",
        "ids": "40 entries",
        "tiny": "yes",
    }


def test_reports_are_equal_whatever_else_is_compared() -> None:
    gold = examples(60)
    one: EvaluationReport = judged(gold, cards()[0][0], 0.9).report

    assert one == judged(gold, cards()[0][0], 0.9).report


def test_parts_stand_on_the_page_in_the_order_a_person_counts() -> None:
    found = comparison()
    names = ["agreement_100", "agreement_50", "without_near_duplicates"]
    part = Subset(n=7, metrics=found.systems[0].metrics)
    systems = [r.model_copy(update={"subsets": dict.fromkeys(names, part)})
               for r in found.systems]  # fmt: skip
    found = found.model_copy(update={"systems": systems})

    wanted = ["agreement 50 %, n = 7", "agreement 100 %, n = 7", "without near duplicates, n = 7"]
    for page in (render_html(found), render_markdown(found)):
        places = [page.index(name) for name in wanted]
        assert places == sorted(places)


def test_what_was_measured_and_the_teachers_price_stand_under_the_table() -> None:
    found = comparison()
    card = found.systems[0].system.model_copy(
        update={"hardware": "Abacus, 2 cores, 1 GB", "latency_p50_ms": 6.2, "latency_p95_ms": 128.0,
                "latency_p99_ms": 150.0, "latency_texts": 40,
                "training_seconds": 200.0, "training_texts_per_second": 65.0}
    )  # fmt: skip
    first = found.systems[0].model_copy(update={"system": card})
    facts = {"teacher": "sage", "judged": 900, "answers": 1000, "usd": 0.5,
             "accuracy": {"value": 0.9, "low": 0.88, "high": 0.92}}  # fmt: skip
    context = found.context.model_copy(update={"teacher": {"teachers": [facts]}})
    found = found.model_copy(update={"systems": [first, *found.systems[1:]], "context": context})

    text = render_markdown(found)

    assert "6.2 ms, p95 128, p99 150" in text
    assert "3 min 20 s, 65/s" in text
    assert "Measured on Abacus, 2 cores, 1 GB" in text
    assert "40 single texts" in text
    assert "agrees with gold on 0.900 [0.880, 0.920] of 900 training texts; $0.50 per 1,000" in text
    assert "was not asked about the texts" not in text, "the teacher stands in the table"
    alone = found.model_copy(update={"systems": [first]})
    assert "It was not asked about the texts judged here" in render_markdown(alone)


def test_what_happened_in_a_training_stands_on_the_page_and_in_the_text() -> None:
    found = comparison()
    first = found.systems[0]
    card = first.system.model_copy(update={"notes": ["micro-batch halved", "texts copied"]})
    noted = first.model_copy(update={"system": card})
    told = found.model_copy(update={"systems": [noted, *found.systems[1:]]})

    assert "micro-batch halved; texts copied" in Page(render_html(told)).text
    (line,) = [li for li in render_markdown(told).splitlines() if "texts copied" in li]
    assert line == f"- {display_name(card)}: micro-batch halved; texts copied"


def test_trainings_are_told_by_the_tokens_they_saw_and_older_reports_stay_readable() -> None:
    found = comparison()
    lora = next(r for r in found.systems if r.system.name == "lora")
    seen = lora.system.model_copy(update={"tokens_seen": 580_123})
    systems = [r.model_copy(update={"system": seen}) if r is lora else r for r in found.systems]
    told = found.model_copy(update={"systems": systems})

    text, page = render_markdown(told), Page(render_html(told)).text

    table = text[text.index("| System |") :].splitlines()
    header, row = (
        next(line for line in table if line.startswith(start)).split("|")
        for start in ("| System |", "| LoRA baseline")
    )
    assert row[header.index(" Tokens seen ")].strip() == "580k"
    assert "Tokens seen" in page
    assert "580k" in page
    assert "Tokens seen" not in render_markdown(found), "a column that nobody fills"
    older = lora.model_dump(mode="json")
    del older["system"]["tokens_seen"]
    assert EvaluationReport.model_validate(older) == lora


def test_every_metric_and_every_label_stand_on_the_page_as_they_were_computed() -> None:
    found = comparison()
    first = found.systems[0]
    page = Page(render_html(found)).text
    text = render_markdown(found)

    mcc, label = first.metrics["mcc"], first.per_class[found.labels[0]]
    assert f"{mcc.value:.3f} [{mcc.low:.3f}, {mcc.high:.3f}]" in text
    assert f"{mcc.value:.3f}{mcc.low:.3f}\u2013{mcc.high:.3f}" in page
    for side in (page, text):
        assert f"{label.precision:.2f} / {label.recall:.2f} / {label.f1:.2f}" in side
        assert "Calibration error (ECE)" in side


def test_every_figure_of_the_tables_has_its_paired_tests_corrected_over_the_family() -> None:
    found = comparison()
    reports = {report.system.name: report for report in found.systems}

    for pair in found.pairs:
        one, two = reports[pair.first], reports[pair.second]
        assert set(pair.differences) == {*METRICS, "ece"} - {"unparseable"}
        assert set(pair.by_label) == set(one.per_class)
        assert set(pair.parts) == set(one.subsets)
        scores = {test.score: test for test in pair.scores}
        assert {"negative_log_loss", "negative_brier"} <= scores.keys()
        for name in (one.rationales.keys() & two.rationales.keys()) - {"words"}:
            alike = one.rationales[name].mean == two.rationales[name].mean
            assert name in scores or alike
        tables = [pair.differences, pair.parts, *pair.by_label.values()]
        tests = [found.permutation for table in tables for found in table.values()]
        for score in pair.scores:
            tests += [score.t_test, score.wilcoxon, score.resampled.permutation]
        for test in tests:
            assert test.p_holm is not None
            assert test.p_bonferroni is not None
            assert test.p <= test.p_holm <= test.p_bonferroni


def test_the_page_prints_the_tests_of_labels_parts_and_scores() -> None:
    text = " ".join(Page(render_html(comparison())).text.split())

    for row in ("Calibration error (ECE)", "neutral: recall", "Accuracy on agreement 50 %"):
        assert re.search(re.escape(row) + r" [+\u2212]\d", text), row
    assert "Brier score (negative)" in text
    assert "each metric (and label, part and score) for itself" in text


def test_missing_encoder_scores_are_skipped_with_a_word() -> None:
    assert "Sentence similarity and BERTScore were not computed" in render_html(comparison())


def test_the_constant_answer_is_judged_on_every_part_too() -> None:
    gold = [
        e.model_copy(update={"label": TASK.label_names[0]}) if i % 2 else e
        for i, e in enumerate(examples(60))
    ]
    near = {e.id for e in gold[:6]}
    systems = [
        Judged(
            evaluate_system(
                card, gold, said, TASK, QUICK, "toy set", "d" * 64, near_duplicates=near
            ),
            said,
        )
        for i, (card, accuracy) in enumerate(cards())
        if (said := answers(gold, accuracy, i))
    ]
    found = compare_systems(
        systems, gold, TASK, QUICK, context=ReportContext(), near_duplicates=near
    )

    assert found.constant is not None
    right = {name: part.metrics["accuracy"].value for name, part in found.constant.subsets.items()}
    share = sum(e.label == TASK.label_names[0] for e in gold[6:]) / 54
    assert right["agreement_100"] == 1.0
    assert right["without_near_duplicates"] == pytest.approx(share)
    row = render_markdown(found).split("## Parts of the texts")[1].split("always")[1].split("|")
    assert row[1].strip().startswith("0.")


def test_every_test_says_what_it_assumes_and_where_that_is_not_met() -> None:
    found = comparison()
    page = Page(render_html(found)).text

    scores = [score for pair in found.pairs for score in pair.scores]
    unmet = sum(not score.t_test.met for score in scores)
    assert unmet
    assert scores[0].wilcoxon.assumes in page
    assert scores[0].t_test.assumes in page
    assert f"Not met by {unmet} of the {len(scores)} differences" in page
    rough = next(score.t_test for score in scores if not score.t_test.met)
    assert f"assumption not met: {rough.note}" in page
    assert f"raw {p_value(rough.p)}" in page


def test_the_difference_found_four_times_in_five_stands_beside_each_pair() -> None:
    found = comparison()
    page = Page(render_html(found)).text
    assert "Found 4 times in 5 from" in page
    assert all(f"{100 * pair.detectable:.1f} points" in page for pair in found.pairs)


def test_without_prices_accuracy_is_drawn_against_machine_time() -> None:
    gold = examples()
    systems = [
        judged(
            gold,
            SystemCard(name=n, role="student", title=n, predict_texts=500, predict_seconds=s),
            0.8,
        ).report
        for n, s in (("slow", 50.0), ("fast", 2.0))
    ]
    figure = cost_figure(systems)
    assert figure is not None
    assert (figure.title, figure.svg.count('class="dot')) == ("Time and accuracy", 2)
    assert "seconds per 1,000 texts" in figure.svg
    assert cost_figure(systems[:1]) is None
    priced = [r.model_copy(update={"system": r.system.model_copy(update={"usd_per_1000": 0.1})})
              for r in systems]  # fmt: skip
    dearer = cost_figure(priced)
    assert dearer is not None
    assert "US dollars per 1,000 texts" in dearer.svg


def test_log_loss_is_compared_text_by_text() -> None:
    found = comparison()
    pair = found.pairs[0]
    first, second = (
        next(r for r in found.systems if r.system.name == name)
        for name in (pair.first, pair.second)
    )
    assert first.probability
    assert second.probability
    test = next(score for score in pair.scores if score.score == "negative_log_loss")
    gap = second.probability.log_loss.value - first.probability.log_loss.value
    assert test.interval.value == pytest.approx(gap)


def seeded_systems(gold: list[Example]) -> list[Judged]:
    """Two recipes with two seeds each, and a baseline without seeds that both runs have."""
    found = []
    for group, accuracy in (("step by step", 0.9), ("label only", 0.5)):
        for seed in (1, 2):
            card = SystemCard(
                name=f"run{seed}/{group}", role="student", title=group, group=group, seed=seed
            )
            found.append(judged(gold, card, accuracy, seed + int(100 * accuracy)))
    for run in (1, 2):
        card = SystemCard(name=f"run{run}/tfidf", role="baseline", title="TF-IDF")
        found.append(judged(gold, card, 0.7, 5))
    return found


def test_a_baseline_that_several_runs_have_stands_once() -> None:
    systems = seeded_systems(examples(60))
    kept, notes = each_once(systems)
    assert [s.report.system.name for s in kept] == [s.report.system.name for s in systems[:-1]]
    assert notes == ["run2/tfidf: the same recipe and the same answers as run1/tfidf, listed once."]


def test_the_same_seed_trained_twice_is_no_second_seed() -> None:
    systems = seeded_systems(examples(60))
    card = systems[0].report.system.model_copy(update={"name": "run9/step by step"})
    again = Judged(systems[0].report.model_copy(update={"system": card}), systems[0].predictions)
    kept, _ = each_once([*systems[:4], again])

    assert kept[1:] == systems[1:4]
    assert kept[0].report.system.stands_for == ["run9/step by step"]


def test_other_answers_or_another_recipe_keep_a_system() -> None:
    systems = seeded_systems(examples(60))
    other = systems[-1].predictions[0].model_copy(update={"label": None})
    changed = Judged(systems[-1].report, [other, *systems[-1].predictions[1:]])
    renamed = systems[-1].report.system.model_copy(update={"title": "TF-IDF (gold labels)"})
    retitled = Judged(
        systems[-1].report.model_copy(update={"system": renamed}), systems[-1].predictions
    )
    for last in (changed, retitled):
        kept, notes = each_once([*systems[:-1], last])
        assert (len(kept), notes) == (6, [])


def test_recipes_over_seeds_are_corrected_within_their_family() -> None:
    gold = examples(120)
    systems, _ = each_once(seeded_systems(gold))
    found = compare_systems(systems, gold, TASK, QUICK, context=ReportContext())

    families = [(p.first, p.second, p.family) for p in found.group_pairs]
    assert families == [
        ("step by step", "label only", "primary"),
        ("step by step", "TF-IDF", "primary"),
        ("label only", "TF-IDF", "secondary"),
    ]
    first, _, last = found.group_pairs
    assert first.bootstrap.p_bonferroni == pytest.approx(min(1, 2 * first.bootstrap.p))
    assert last.bootstrap.p_bonferroni == pytest.approx(last.bootstrap.p)
    assert found.verdicts == [p.verdict for p in found.group_pairs[:2]]
    page = Page(render_html(found)).text
    assert "Family: 2 comparison(s) with the reference's recipe" in page
    assert "Family: 1 comparison(s) between all other recipes" in page
