"""Everything that may stand in a YAML, with its defaults; and how a YAML is read."""

from common.config.comparison import ComparisonConfig
from common.config.load import load_config, load_data, read_tree, validate_config
from common.config.run import RunConfig

JobConfig = RunConfig | ComparisonConfig  # what a job does

__all__ = [
    "ComparisonConfig",
    "JobConfig",
    "RunConfig",
    "load_config",
    "load_data",
    "read_tree",
    "validate_config",
]
