"""Errors of pages as pages: people get words, programs get problem details."""

from fastapi import FastAPI, Request, Response

from workers.api.problems import TITLES, Problem
from workers.web.rendering import render
from workers.web.visits import LoginNeeded, to_login


def is_page(request: Request) -> bool:
    """Whether a person in a browser asks for a page."""
    path = request.url.path
    machine = path.startswith(("/v1", "/health", "/ready", "/metrics", "/openapi", "/static"))
    return not machine and "text/html" in request.headers.get("accept", "")


def page_of(request: Request, problem: Problem) -> Response:
    """A problem in words."""
    title = TITLES.get(problem.status, "Error")
    told = problem.detail[:1].upper() + problem.detail[1:]
    if problem.errors:
        told += " " + "; ".join(f"{fault.pointer}: {fault.detail}" for fault in problem.errors)
    page = render("fault.html", problem.status, title=title, told=told,
                  request_id=request.scope.get("finstill.request_id", ""))  # fmt: skip
    page.headers.update(problem.headers)
    return page


def install(app: FastAPI) -> None:
    """Send those without a session to the login page."""

    async def login(request: Request, error: Exception) -> Response:
        return to_login(request)

    app.add_exception_handler(LoginNeeded, login)
