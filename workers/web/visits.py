"""Who looks at a page, and the forms they send."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qs, quote

from fastapi import Depends, Request
from starlette.responses import RedirectResponse

from workers.api.auth import limit_rate
from workers.api.problems import Problem
from workers.api.state import Services, services_of
from workers.tokens import Scope, Token
from workers.web.sessions import form_is_ours

MOST_FORM_BYTES = 64 << 10


class LoginNeeded(Exception):
    """Becomes a way to the login page and back."""


@dataclass(frozen=True)
class Visit:
    """A logged-in person's request."""

    services: Services
    token: Token
    csrf: str

    def may(self, scope: str) -> bool:
        """Whether the token covers a scope; pages offer only what it does."""
        return self.token.scope.allows(Scope(scope))


async def visit(request: Request) -> Visit:
    """The visitor by their session. Raises LoginNeeded, Problem 429."""
    services = services_of(request)
    found = await services.sessions.find(request)
    if found is None:
        raise LoginNeeded
    token, csrf = found
    await limit_rate(services, f"token:{token.id}", token.requests_per_minute)
    return Visit(services, token, csrf)


Visitor = Annotated[Visit, Depends(visit)]


def to_login(request: Request) -> RedirectResponse:
    """Back to the same page after the login."""
    wanted = request.url.path if request.method == "GET" else "/jobs"
    return RedirectResponse(f"/login?next={quote(wanted)}", 303)


def local_path(wanted: str) -> str:
    """A path of this server, whatever was asked for: `//host` and `https:` are not."""
    plain = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    return wanted if plain and wanted.isascii() and wanted.isprintable() else "/jobs"


async def form_of(request: Request) -> dict[str, str]:
    """An urlencoded form; the first value of each field. Raises Problem 413, 415, 422."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Problem(415, "expected a form.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_FORM_BYTES:
            raise Problem(413, f"a form may have {MOST_FORM_BYTES} bytes.")
    try:
        fields = parse_qs(body.decode("utf-8"), max_num_fields=150, keep_blank_values=True)
    except ValueError:
        raise Problem(422, "the form is not urlencoded UTF-8.") from None
    values = {name: given[0] for name, given in fields.items()}
    if any(ord(s) < 32 and s not in "\r\n\t" for value in values.values() for s in value):
        raise Problem(422, "control characters are not taken.")
    return values


async def our_form(request: Request, visitor: Visit, scope: Scope) -> dict[str, str]:
    """The fields of a form of our own page. Raises Problem 403 for any other, or without scope."""
    form = await form_of(request)
    if not form_is_ours(request, form.get("csrf", ""), visitor.csrf):
        raise Problem(403, "the form did not come from this session's own page; load it again.")
    if not visitor.token.scope.allows(scope):
        raise Problem(403, f"this needs the scope '{scope}'.")
    return form
