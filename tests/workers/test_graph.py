"""What a run consists of, and when a finished stage must be done again."""

from pathlib import Path

import pytest

from common.config import RunConfig, load_config
from common.task import CONFIGS
from workers.graph import fingerprint, is_done, ready_stages, stages_of, stages_until
from workers.run_directory import create_run, open_run, read_json, write_json


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "texts.jsonl").write_text('{"id": "a", "text": "x", "label": "neutral"}\n')
    (tmp_path / "answers.jsonl").write_text('{"id": "a", "label": "neutral"}\n')
    return load_config(
        CONFIGS / "demo.yaml",
        [f"data.path={tmp_path / 'texts.jsonl'}", f"teacher.answers={tmp_path / 'answers.jsonl'}"],
    )


def test_a_stage_waits_for_what_it_reads(config: RunConfig, tmp_path: Path) -> None:
    run = create_run(tmp_path, config)

    assert [stage.name for stage in ready_stages(run, config)] == ["prepare"]
    for name in ("prepare", "probe", "label", "collect"):
        run.mark_done(name, fingerprint(config, name), 1.0)

    ready = {stage.name for stage in ready_stages(run, config)}
    assert ready == {"train:student", "train:lora", "evaluate:majority", "evaluate:tfidf"}


def test_changed_input_undoes_a_stage_and_all_that_follow(
    config: RunConfig, tmp_path: Path
) -> None:
    run = create_run(tmp_path, config)
    for name in stages_of(config):
        run.mark_done(name, fingerprint(config, name), 1.0)
    assert ready_stages(run, config) == []

    (tmp_path / "answers.jsonl").write_text('{"id": "a", "label": "positive"}\n')

    undone = {name for name in stages_of(config) if not is_done(run, config, name)}
    assert "prepare" not in undone
    assert undone == set(stages_of(config)) - {"prepare"}


def test_another_learning_rate_trains_again_but_labels_nothing(config: RunConfig) -> None:
    training = config.training.model_copy(update={"learning_rate": 0.5})
    other = config.model_copy(update={"training": training})

    assert fingerprint(other, "collect") == fingerprint(config, "collect")
    assert fingerprint(other, "train:student") != fingerprint(config, "train:student")
    assert fingerprint(other, "train:lora") == fingerprint(config, "train:lora")


def test_until_cuts_the_graph(config: RunConfig) -> None:
    assert [s.name for s in stages_until(config, "label")] == [
        "prepare",
        "probe",
        "label",
        "collect",
    ]
    assert "evaluate:student" not in [s.name for s in stages_until(config, "train")]
    assert len(stages_until(config, "report")) == len(stages_of(config))


def test_a_run_is_found_again_by_its_config_its_id_and_a_beginning_of_it(
    config: RunConfig, tmp_path: Path
) -> None:
    run = create_run(tmp_path, config)

    assert create_run(tmp_path, config).root == run.root
    assert open_run(tmp_path, run.run_id)[1] == config
    assert open_run(tmp_path, run.run_id[:6])[0].root == run.root


def test_a_half_written_file_reads_as_absent_and_writing_leaves_no_partial(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"fingerprint": "abc')

    write_json(tmp_path / "whole.json", {"a": 1})

    assert read_json(tmp_path / "half.json") is None
    assert read_json(tmp_path / "whole.json") == {"a": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.json", "whole.json"]
