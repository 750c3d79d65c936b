"""What every route works with, made once when the application is made."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request

from common.task import PROJECT_ROOT
from workers.api.datasets import DatasetStore
from workers.api.predicting import PredictorPool
from workers.api.rate import RATE
from workers.api.secrecy import Secrecy
from workers.corrections import Corrections
from workers.jobs import Jobs
from workers.services import Settings, connect
from workers.tokens import Token, Tokens
from workers.web.sessions import Sessions

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from workers.desk import Desk


@dataclass(frozen=True)
class Options:
    """
    How the service is offered. `hosts`: names it may be called by besides the loopback ones; empty
    accepts any. Sizes in bytes. `most_streams`: live event streams at a time.
    """

    hosts: frozenset[str] = frozenset()
    most_upload_bytes: int = 256 << 20
    most_upload_rows: int = 2_000_000
    most_models: int = 2
    most_streams: int = 64
    secure_cookies: bool = False


@dataclass
class Services:
    """
    The composition of the HTTP service.

    `redis` is for work in threads, `async_redis` for the event loop.
    """

    settings: Settings
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        self.redis: redis.Redis = connect(self.settings.redis_url or "")
        self.jobs = Jobs(self.redis)
        self.tokens = Tokens(self.redis)
        self.datasets = DatasetStore(
            self.settings.runs / ".datasets",
            self.options.most_upload_bytes,
            self.options.most_upload_rows,
        )
        self.datasets.sweep()
        self.corrections = Corrections(self.settings.runs / ".corrections")
        self.predictors = PredictorPool(
            self.settings.runs, self.settings.threads, self.options.most_models
        )
        self.proven: dict[bytes, tuple[Token, float]] = {}  # see workers/api/auth.py
        self.streams = asyncio.Semaphore(self.options.most_streams)
        self._secrecy = Secrecy(
            secrets=[
                self.settings.anthropic_api_key,
                self.settings.vllm_api_key,
                self.settings.store_secret,
                _password(self.settings.redis_url),
            ],
            folders={
                str(self.datasets.folder) + "/": "upload:",
                str(self.settings.runs): "runs",
                str(self.settings.state): "state",
                str(PROJECT_ROOT): ".",
                str(Path.home()): "~",
            },
        )

    @cached_property
    def async_redis(self) -> "redis.asyncio.Redis":
        """Opened on first use, inside the event loop."""
        import redis.asyncio

        return redis.asyncio.Redis.from_url(self.settings.redis_url or "")

    @cached_property
    def rate(self) -> Callable[..., Awaitable[Any]]:
        """The rate limiter's script."""
        return self.async_redis.register_script(RATE)

    @cached_property
    def sessions(self) -> Sessions:
        """Browser sessions."""
        return Sessions(self.async_redis, self.options.secure_cookies)

    @contextmanager
    def desk(self) -> "Iterator[Desk]":
        """A way to the queue for one thread: kombu's connections are not to be shared."""
        from workers.celery_app import app
        from workers.desk import Desk
        from workers.tasks import send

        with app.connection_for_write(self.settings.broker_url) as connection:
            yield Desk(self.settings, self.redis, partial(send, connection=connection))

    def scrub(self, text: str) -> str:
        """A text without secrets and without the server's folders."""
        return self._secrecy.scrub(text)

    def scrubbed(self, value: Any) -> Any:
        """The same for every string in a JSON value."""
        return self._secrecy.scrubbed(value)

    async def close(self) -> None:
        """Let go of models and connections."""
        await self.predictors.close()
        if "async_redis" in self.__dict__:
            await self.async_redis.aclose()
        self.redis.close()


def services_of(request: Request) -> Services:
    """The application's services."""
    services: Services = request.app.state.services
    return services


def _password(url: str | None) -> str | None:
    from urllib.parse import urlsplit

    return urlsplit(url).password if url else None
