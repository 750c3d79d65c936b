"""Asks a large model for a label and its reasons."""
