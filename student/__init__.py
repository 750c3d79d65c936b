"""Trains and runs a small model."""
