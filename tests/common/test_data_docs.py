"""The page on data shows configurations that load."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from common.config.data import DataConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: " ".join(block.split()[:2]))
def test_every_configuration_on_the_page_is_valid(block: str) -> None:
    adapter: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)

    config = adapter.validate_python(yaml.safe_load(block))

    assert adapter.validate_json(adapter.dump_json(config)) == config


def test_the_page_shows_every_kind_of_source_and_split() -> None:
    text = "\n".join(BLOCKS)

    for kind in ("fpb", "csv", "jsonl", "parquet", "hub", "column", "test_only", "train_only"):
        assert re.search(rf"kind: {kind}\b", text), kind
