"""From a data config to its rows."""

from collections.abc import Iterator
from typing import assert_never

from common.config.data import DataConfig, FileData, FpbData, HubData
from common.data.rows import Row


def read_rows(config: DataConfig) -> Iterator[Row]:
    """
    Every row of the source in its own order; streams, and can be called again.

    Raises InputError, naming file and line, for what cannot be read.
    """
    match config:
        case FpbData():
            from common.data.fpb import fpb_rows

            return fpb_rows(config)
        case FileData():
            from common.data.files import file_rows

            return file_rows(config)
        case HubData():
            from common.data.hub import hub_rows

            return hub_rows(config)
        case _:
            assert_never(config)


def source_name(config: DataConfig) -> str:
    """How reports call the data set: its given name, else the repository or the file's stem."""
    match config:
        case _ if config.name:
            return config.name
        case FpbData():
            least = f", agreement ≥ {config.agreement} %" if config.agreement > 50 else ""
            return f"Financial PhraseBank{least}"
        case FileData():
            return config.path.stem
        case HubData():
            return config.repository
        case _:
            assert_never(config)
