"""
Everything finstill raises on purpose.

FinstillError                 failed; exit code 1
├── UsageError                the user can mend it before trying again; exit code 2
│   ├── ConfigError           a YAML file or a key=value override is not valid
│   ├── InputError            a file, a data set, a model folder or a run is not what was expected
│   └── MissingDependency     an optional package is needed and not installed
├── ServiceError              Redis, the broker or a worker is not there or not fit for the job
├── DiskFull                  nothing more can be written
├── TeacherError              a teacher could not be asked at all (single rows become Unanswered)
│   ├── TeacherRejected       400, 401, 403, 404: asking again will never work
│   └── TeacherUnfit          the smoke run or the gold probe stopped the job
├── StudentError              a model could not be loaded, trained or exported
│   └── StudentBusy           another process trains this very student
├── LeakageError              a test text stands in what a system was trained on
├── JobCancelled              a person asked for it
└── JobPaused                 the budget is reached; the job can be resumed

A message names the thing, its value, what was expected and the cure, in one sentence.
Failures of single rows are values (records.Unanswered), never exceptions.
"""


class FinstillError(Exception):
    """Base class; its message is meant for the user and shown without a traceback."""

    exit_code = 1


class UsageError(FinstillError):
    """The input is not usable as given."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or override is not valid; the message lists every fault."""


class InputError(UsageError):
    """A file, data set, model folder or run is missing or not of the expected kind."""


class MissingDependency(UsageError):
    """An optional package is needed and not installed."""


class ServiceError(FinstillError):
    """Redis, the broker or a worker is missing or not fit for the job."""


class DiskFull(FinstillError):
    """The disk took no more; what was written before stays valid."""


class TeacherError(FinstillError):
    """A teacher could not be asked."""


class TeacherRejected(TeacherError):
    """The service refuses this request in principle (400, 401, 403, 404)."""


class TeacherUnfit(TeacherError):
    """The smoke run or the gold probe found the teacher's answers not worth paying for."""


class StudentError(FinstillError):
    """A model could not be loaded, trained or exported."""


class StudentBusy(StudentError):
    """Another process trains in the same folder; nothing is wrong with this training."""


class LeakageError(FinstillError):
    """A test text stands in what a system was trained on or was shown."""


class JobCancelled(FinstillError):
    """Somebody cancelled the job; finished work is kept."""


class JobPaused(FinstillError):
    """The job stopped at its budget; `finstill jobs resume ID` goes on."""
