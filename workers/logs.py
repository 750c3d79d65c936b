"""Log lines for people and for machines, with the ids that join them: request and job."""

import json
import logging
import time
from typing import Any


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, logger, message, and the ids a record carries."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("request_id", "job_id", "status"):
            if (value := getattr(record, name, None)) is not None:
                line[name] = value
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class JobName(logging.Filter):
    """Gives every record the id of the job its process is at work on; "-" in between."""

    job_id = "-"

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets all pass."""
        if not hasattr(record, "job_id"):
            record.job_id = self.job_id
        return True


WORKER_TEXT = "%(asctime)s %(levelname)s %(processName)s %(job_id)s %(message)s"


def log_as(log_format: str) -> None:
    """
    Let this Celery worker write `text` or `json` lines that name the job.

    A worker's process does one task at a time, so that the job holds for its threads too.
    """
    from celery import signals

    names = JobName()

    def dress(logger: logging.Logger, **_: object) -> None:
        for handler in logger.handlers:
            handler.setFormatter(
                JsonLines() if log_format == "json" else logging.Formatter(WORKER_TEXT)
            )
            handler.addFilter(names)

    def begin(args: Any = (), **_: object) -> None:
        names.job_id = str(args[0]) if args else "-"

    def end(**_: object) -> None:
        names.job_id = "-"

    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(dress, weak=False)
    signals.task_prerun.connect(begin, weak=False)
    signals.task_postrun.connect(end, weak=False)
