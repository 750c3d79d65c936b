"""The house plan as a test: who may import whom, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "common": {"common"},
    "teacher": {"common", "teacher"},
    "student": {"common", "student"},
    "workers": {"common", "teacher", "student", "workers"},
}
FILES = [p for package in MAY_IMPORT for p in sorted((ROOT / package).rglob("*.py"))]


def imported_packages(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_import_only_downwards(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]

    ours = imported_packages(path) & MAY_IMPORT.keys()

    assert ours <= MAY_IMPORT[package], f"{path} imports {sorted(ours - MAY_IMPORT[package])}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_exceeds_300_lines(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")

    assert lines <= 300, f"{path} has {lines} lines"


def test_every_package_folder_has_an_init_file() -> None:
    folders = {path.parent for path in FILES}

    assert [f for f in folders if not (f / "__init__.py").exists()] == []


def test_tests_are_not_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("module", ["common.config", "teacher", "student", "workers"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)

    assert done.returncode == 0, f"import {module} pulls in torch"
