"""
A lease says who is at work on a stage; it ends with its owner's heartbeat.

Redis offers a task again after the visibility timeout whether or not it still runs. The lease tells
the two cases apart: held, and the second copy waits; expired, and it takes over.
"""

import logging
import threading
import uuid
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import redis

logger = logging.getLogger(__name__)

_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1
end
return 0
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class Lease:
    """
    A named lock in Redis, renewed from a thread at a third of its life.

    `with Lease(...) as lease:` then ask `lease.held`. `lease.lost` turns True when another
    owner has taken over; the work must then stop without writing its results.
    """

    def __init__(self, client: "redis.Redis", name: str, seconds: float):
        self._client = client
        self._key = f"finstill:lease:{name}"
        self._token = uuid.uuid4().hex
        self._milliseconds = int(seconds * 1000)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.held = False
        self.lost = False

    def __enter__(self) -> Self:
        taken = self._client.set(self._key, self._token, nx=True, px=self._milliseconds)
        self.held = bool(taken)
        if self.held:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        if self.held and not self.lost:
            self._quietly(_RELEASE)
        self.held = False

    def renew(self) -> bool:
        """
        Whether it is still this owner's, by Redis.

        To ask before work that began with a long import: a thread that the interpreter did not let
        run could neither keep the lease nor notice its loss.
        """
        if not self.lost and self._quietly(_RENEW) == 0:
            self.lost = True
            logger.warning("lease %s was taken over by another worker", self._key)
        return not self.lost

    def _beat(self) -> None:
        while not self._stop.wait(self._milliseconds / 3000):
            if not self.renew():
                return

    def _quietly(self, script: str) -> object:
        """A heartbeat outlives a restart of Redis: failures are logged, the next beat retries."""
        import redis

        try:
            return self._client.eval(script, 1, self._key, self._token, str(self._milliseconds))
        except redis.RedisError as error:
            logger.warning("lease %s: Redis does not answer (%s)", self._key, error)
            return None
