"""Teachers that stay open from chunk to chunk, so that connections are not made anew for each."""

import atexit
import os
import threading
from collections import OrderedDict

from common.config.teacher import RecordedTeacher, TeacherConfig
from common.fingerprint import digest
from common.task import TaskDefinition
from teacher.base import Teacher
from teacher.build import TeacherSettings, build_teacher
from teacher.loops import run

_MOST_OPEN = 4
_here = threading.local()


def opened_teacher(
    config: TeacherConfig, task: TaskDefinition, settings: TeacherSettings
) -> Teacher:
    """
    The teacher of a configuration, built once a thread and kept open for the next call.

    Whoever uses it leaves it open: the eldest of more than four is closed, and all of them
    when the process ends. Recorded answers are looked at anew, for their file may have changed.
    Raises what `build_teacher` raises.
    """
    if isinstance(config, RecordedTeacher):
        return build_teacher(config, task, settings)
    teachers = _opened()
    key = (digest(config), digest(task), settings)
    if key not in teachers:
        teachers[key] = build_teacher(config, task, settings)
    teachers.move_to_end(key)
    while len(teachers) > _MOST_OPEN:
        _, eldest = teachers.popitem(last=False)
        run(eldest.close())
    return teachers[key]


def close_teachers() -> None:
    """Close this thread's open teachers."""
    teachers = _opened()
    while teachers:
        _, teacher = teachers.popitem()
        run(teacher.close())


_Key = tuple[str, str, TeacherSettings]


def _opened() -> "OrderedDict[_Key, Teacher]":
    """This thread's teachers; a forked process starts with none, for sockets are not shared."""
    if getattr(_here, "process", None) != os.getpid():
        _here.process, _here.teachers = os.getpid(), OrderedDict()
        atexit.register(close_teachers)
    teachers: OrderedDict[_Key, Teacher] = _here.teachers
    return teachers
