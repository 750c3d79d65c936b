"""The language of finstill: records, labels, configuration, data, evaluation. No torch."""

__version__ = "0.1.0"
