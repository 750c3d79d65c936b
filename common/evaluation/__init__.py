"""Judging systems alike: metrics, statistics, reports."""
