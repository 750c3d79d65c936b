"""Data sets of the Hugging Face hub (or local folders in its layout) as rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from common.config.data import ColumnSplit, HubData
from common.data.rows import Cells, Origin, Row, Side, check_header, rows_of
from common.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset


def hub_rows(config: HubData) -> Iterator[Row]:
    """
    The rows of the named parts, training before test, from memory-mapped Arrow files.

    Labels that the hub stores as codes with names come out as names, unless a label map is
    given: then as codes.
    """
    both = config.train_part is not None and config.test_part is not None
    sides: list[tuple[str | None, Side]] = [
        (config.train_part, "train"),
        (config.test_part, "test"),
    ]
    for part, side in sides:
        if part is not None:
            yield from _part_rows(config, part, side if both else None)


def _part_rows(config: HubData, part: str, side: Side | None) -> Iterator[Row]:
    dataset = _load(config, part)
    name = f"{config.repository}, part '{part}'"
    origin = Origin(name, "row", side, f"{config.repository.rsplit('/', 1)[-1]}-{part}")
    by_column = isinstance(config.split, ColumnSplit)
    check_header(dataset.column_names, config.columns, origin, by_column)
    return rows_of(_cells(dataset, config), config.columns, origin, by_column)


def _load(config: HubData, part: str) -> "Dataset":
    from datasets import load_dataset

    try:
        return load_dataset(config.repository, config.subset, split=part, revision=config.revision)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"data set {config.repository} (part '{part}') could not be loaded: {first}; check "
            "its name and the network, or name a local folder in the hub's layout."
        ) from error


def _cells(dataset: "Dataset", config: HubData) -> Iterator[tuple[int, Cells]]:
    columns = config.columns
    asked = {columns.id, columns.text, columns.label, columns.split, *columns.meta}
    dataset = dataset.select_columns([name for name in dataset.column_names if name in asked])
    names = _label_names(dataset, config)
    for number, cells in enumerate(dataset, 1):
        code = cells.get(columns.label)
        if names is not None and isinstance(code, int):
            cells[columns.label] = names[code] if code >= 0 else None  # -1: the hub's "no label"
        yield number, cells


def _label_names(dataset: "Dataset", config: HubData) -> list[str] | None:
    feature: Any = dataset.features.get(config.columns.label)
    return None if config.label_map else getattr(feature, "names", None)
