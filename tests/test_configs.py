"""Every YAML that ships loads, and says in its header what it is and how it is run."""

from pathlib import Path

import pytest
import yaml

from common.config import load_config
from common.task import CONFIGS, load_task
from workers.graph import stages_of

_NOT_RUNS = {"tasks", "prompts", "data"}
_TABLES = {"prices.yaml", "published.yaml", "finance_terms.yaml", "terms.yaml"}
RUNS = [
    path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if path.relative_to(CONFIGS).parts[0] not in _NOT_RUNS and path.name not in _TABLES
]


@pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_shipped_run_config_loads(path: Path) -> None:
    config = load_config(path)

    assert load_task(config.task).name == config.task
    assert "report" in stages_of(config)


@pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_shipped_run_config_says_how_it_is_run(path: Path) -> None:
    header = path.read_text(encoding="utf-8").split("\nname:")[0]

    assert header.startswith("# ")
    assert "finstill " in header


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.name)
def test_every_yaml_parses(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted((CONFIGS / "tasks").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_task_loads(path: Path) -> None:
    assert load_task(path.stem).label_names
