"""What a comparison of finished runs consists of, where it is done as a job."""

import shlex
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from common.config.base import Section
from common.fingerprint import digest

MOST_RUNS = 8
RUN_ID = r"^[a-z0-9][a-z0-9._-]{0,63}-[0-9a-f]{10}$"
SYSTEM = r"^[a-z0-9][a-z0-9_-]{0,31}$"
RunId = Annotated[str, StringConstraints(pattern=RUN_ID)]
SystemName = Annotated[str, StringConstraints(pattern=SYSTEM)]


class ComparisonConfig(Section):
    """
    Judged systems of `runs`, side by side on the same texts.

    `only` keeps the systems of these names. `common`: on the texts that all test parts share.
    `drop_leaked`: texts that a run has seen are left out for all, and counted.
    """

    runs: tuple[RunId, ...] = Field(min_length=1, max_length=MOST_RUNS)
    only: tuple[SystemName, ...] = Field(default=(), max_length=32)
    common: bool = False
    drop_leaked: bool = False

    @field_validator("runs", "only")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"'{twice[0]}' is named twice; name each once")
        return names

    @property
    def run_id(self) -> str:
        """`compare` and ten digits of the digest: the same question is the same job."""
        return f"compare-{digest(self)[:10]}"

    @property
    def command(self) -> str:
        """The command line that asks for the same."""
        words = ["finstill", "compare", *self.runs]
        words += [word for name in self.only for word in ("--only", name)]
        words += ["--common"] * self.common + ["--drop-leaked"] * self.drop_leaked
        return shlex.join(words)
