"""Hub data sets, read from local folders in the hub's layout: the real loader, no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from pydantic import ValidationError

from common.config.data import HubData
from common.data.prepare import prepare
from common.data.report import SplitReport
from common.data.store import read_records
from common.errors import InputError
from common.records import Example
from common.task import TaskDefinition

Prepared = Callable[..., tuple[SplitReport, list[Example]]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A data set whose labels are codes with names, as most of the hub's are."""
    folder = tmp_path / "winds"
    (folder / "data").mkdir(parents=True)
    features = Features(
        {
            "sentence": Value("string"),
            "label": ClassLabel(names=["wet", "dry"]),
            "day": Value("int64"),
        }
    )
    for part, offset, count in [("train", 0, 20), ("validation", 20, 5)]:
        rows = {
            "sentence": [f"forecast number {offset + i}" for i in range(count)],
            "label": [i % 2 for i in range(count)],
            "day": list(range(count)),
        }
        Dataset.from_dict(rows, features=features).to_parquet(
            str(folder / "data" / f"{part}-00000-of-00001.parquet")
        )
    return folder


@pytest.fixture
def prepared(repository: Path, weather: TaskDefinition, tmp_path: Path) -> Prepared:
    def run(**settings: Any) -> tuple[SplitReport, list[Example]]:
        config = HubData.model_validate(
            {
                "kind": "hub",
                "repository": str(repository),
                "columns": {"text": "sentence", "meta": ["day"]},
                **settings,
            }
        )
        report = prepare(config, weather, 1, tmp_path / "out")
        return report, list(read_records(tmp_path / "out" / "test.parquet", Example))

    return run


def test_parts_and_label_names_are_those_of_the_hub(prepared: Prepared) -> None:
    report, test = prepared(test_part="validation")

    assert [part.rows for part in report.parts.values()] == [18, 2, 5]
    assert test[0] == Example(
        id="winds-validation-000000", text="forecast number 20", label="wet", meta={"day": 0}
    )
    assert [e.label for e in test] == ["wet", "dry", "wet", "dry", "wet"]


def test_a_label_map_reads_the_codes_themselves(prepared: Prepared) -> None:
    _, test = prepared(test_part="validation", label_map={0: "dry", 1: "wet"})

    assert [e.label for e in test] == ["dry", "wet", "dry", "wet", "dry"]


def test_one_part_can_be_divided_or_be_all_test(prepared: Prepared) -> None:
    divided, _ = prepared(test_part=None)
    judged, test = prepared(train_part=None, test_part="validation", split={"kind": "test_only"})

    assert [part.rows for part in divided.parts.values()] == [14, 2, 4]
    assert [part.rows for part in judged.parts.values()] == [0, 0, 5]
    assert len(test) == 5


def test_a_part_or_column_that_is_not_there_is_refused_with_those_that_are(
    prepared: Prepared,
) -> None:
    with pytest.raises(InputError, match=r"part 'test'\) could not be loaded: .*validation"):
        prepared()
    with pytest.raises(InputError, match=r"has no column 'sentense', did you mean 'sentence'\?"):
        prepared(test_part="validation", columns={"text": "sentense"})


def test_a_repository_that_cannot_be_reached_is_one_sentence(prepared: Prepared) -> None:
    with pytest.raises(InputError, match=r"nobody/nothing \(part 'train'\) could not") as raised:
        prepared(repository="nobody/nothing")
    assert str(raised.value).endswith("or name a local folder in the hub's layout.")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"train_part": None, "test_part": None}, "or both"),
        ({"split": {"kind": "test_only"}}, "`split` needs one part to divide"),
    ],
)
def test_a_hub_config_names_a_part_and_splits_once(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        HubData.model_validate({"kind": "hub", "repository": "a/b", **settings})
