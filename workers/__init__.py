"""Runs finstill as a service: pipeline, queue, HTTP, command line; guards which `common` it is."""

from pathlib import Path

import common

if Path(common.__file__ or "").resolve().parents[1] != Path(__file__).resolve().parents[1]:
    raise ImportError(
        f"'common' was imported from {common.__file__}, not from this application: another "
        "installed package ships a top-level 'common'. Remove it, or set PYTHONPATH to the "
        "checkout."
    )
