"""What README and docs tell people to type exists."""

import re
from pathlib import Path

import pytest

from common.task import PROJECT_ROOT
from workers.cli import _COMMANDS

PAGES = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"`(?:[A-Z_]+=\S+ )*finstill ([a-z]+)|^\s*(?:\$ )?finstill ([a-z]+)", re.M)
CONFIG = re.compile(r"configs/[\w./-]+\.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_on_the_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    named = {first or second for first, second in COMMAND.findall(text)}

    assert named <= _COMMANDS.keys(), f"{page.name}: {sorted(named - _COMMANDS.keys())}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_config_on_the_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    missing = [name for name in set(CONFIG.findall(text)) if not (PROJECT_ROOT / name).exists()]

    assert missing == []


def test_readme_shows_the_two_commands_and_they_are_targets() -> None:
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")

    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}:", makefile, re.M)


def test_no_page_or_code_names_a_path_of_somebodys_machine() -> None:
    found = [
        path
        for pattern in ("*.md", "*.py", "*.yaml", "*.toml", "Makefile")
        for path in PROJECT_ROOT.rglob(pattern)
        if not {".venv", "runs", ".finstill"} & set(path.relative_to(PROJECT_ROOT).parts)
        and re.search(r"/(?:home|Users|root)/\w", path.read_text(encoding="utf-8"))
    ]

    assert found == []
