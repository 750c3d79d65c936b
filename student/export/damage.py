"""What is said of an export whose files are not as they were written: half copied, most likely."""

from pathlib import Path

from common.errors import StudentError
from student.tokens import first_line


def damaged(path: Path, reason: Exception | str) -> StudentError:
    """The error for a file or folder of an export that its library cannot open."""
    # Libraries put paths and traces behind their first line.
    told = reason if isinstance(reason, str) else f"{type(reason).__name__}: {first_line(reason)}"
    return StudentError(
        f"'{path}' cannot be read ({told}); expected the unchanged folder that `finstill export` "
        "wrote: copy it again whole, or export the student again."
    )
