"""`python -m workers.health`: exit code 0 while this host's worker shows a heartbeat in Redis."""

import socket
import sys

from common.errors import FinstillError
from workers.registry import living_workers
from workers.services import connect, settings_from_environment


def main() -> int:
    """0 for a living worker on this host, 1 for none or no Redis."""
    try:
        client = connect(settings_from_environment().redis_url or "redis://127.0.0.1:6379/0")
        names = [worker.name for worker in living_workers(client)]
        client.close()
    except FinstillError:
        return 1
    return 0 if any(name.startswith(f"{socket.gethostname()}:") for name in names) else 1


if __name__ == "__main__":
    sys.exit(main())
