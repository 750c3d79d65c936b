"""
The Celery application: three queues, JSON only, late acknowledgement.

Redis as a broker offers a task again when it has not been acknowledged within the visibility
timeout, running or not; so the timeout is short (a killed worker's task is back within seconds) and
the lease in Redis tells a lost task from a long one (workers/leases.py).
"""

from celery import Celery
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES

from workers.graph import QUEUES
from workers.services import apply_thread_environment, settings_from_environment

VETTED_TRANSPORT = "workers.vetting:Transport"

settings = settings_from_environment()

# By the URL's scheme, because `redis+socket://` pays no attention to `broker_transport`.
TRANSPORT_ALIASES.update(redis=VETTED_TRANSPORT, rediss=VETTED_TRANSPORT)

app = Celery("finstill", broker=settings.broker_url, include=["workers.tasks"])
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    event_serializer="json",
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_default_queue="label",
    task_create_missing_queues=False,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": settings.visibility_seconds,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 5,
        "queue_order_strategy": "priority",
        "socket_keepalive": True,
        "global_keyprefix": "finstill:celery:",
    },
)
app.conf.task_queues = [Queue(name) for name in QUEUES]

apply_thread_environment(settings)
