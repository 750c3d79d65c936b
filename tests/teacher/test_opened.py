"""A teacher stays open from chunk to chunk and no longer than needed."""

from pathlib import Path

from common.config.teacher import RecordedTeacher, VllmTeacher
from common.records import Example
from common.task import load_task
from teacher.build import TeacherSettings
from teacher.opened import close_teachers, opened_teacher

TASK = load_task("sentiment")
SETTINGS = TeacherSettings(vllm_base_url="http://localhost:1")


def config(name: str) -> VllmTeacher:
    return VllmTeacher(kind="vllm", model="llama", name=name)


def test_the_same_configuration_is_the_same_teacher() -> None:
    one = opened_teacher(config("t"), TASK, SETTINGS)

    assert opened_teacher(config("t"), TASK, SETTINGS) is one
    assert opened_teacher(config("u"), TASK, SETTINGS) is not one
    elsewhere = TeacherSettings(vllm_base_url="http://localhost:2")
    assert opened_teacher(config("t"), TASK, elsewhere) is not one
    close_teachers()
    assert opened_teacher(config("t"), TASK, SETTINGS) is not one
    close_teachers()


def test_the_eldest_is_closed_when_there_are_many() -> None:
    first = opened_teacher(config("t0"), TASK, SETTINGS)
    for number in range(1, 5):
        opened_teacher(config(f"t{number}"), TASK, SETTINGS)

    assert opened_teacher(config("t0"), TASK, SETTINGS) is not first
    close_teachers()


def test_a_file_of_answers_is_looked_at_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    recorded = RecordedTeacher(kind="recorded", answers=path)
    example = Example(id="a", text="A plan was made.")
    path.write_text('{"id": "a", "label": "neutral"}\n')
    before = opened_teacher(recorded, TASK, SETTINGS).question(example, 0)
    path.write_text('{"id": "a", "label": "positive"}\n')

    after = opened_teacher(recorded, TASK, SETTINGS).question(example, 0)

    assert before.key != after.key
