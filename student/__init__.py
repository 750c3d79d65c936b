"""Trains and runs a small model."""

import logging

# bitsandbytes warns, as soon as anything imports it, that its CPU kernels from the hub are absent.
# Its fallback is meant: the package that would fetch them over the network is kept out on purpose.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
