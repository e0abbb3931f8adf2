"""The routes of the dashboard: one page, its files, views as JSON, one stream; all of them read.

Numbers and names in a request are checked here; a run is found by its id in the index and no other way.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from esper.cli.dashboard.guard import Access, Guard
from esper.cli.dashboard.index import Entry, RunIndex
from esper.cli.dashboard.lists import MAX_FILTER_CHARS, MAX_ROWS, ListQuery
from esper.cli.dashboard.plain import dump
from esper.cli.dashboard.streaming import EventStream, StreamSlots, parse_last_id
from esper.cli.dashboard.views import Views
from esper.leyline import EsperError, JsonValue

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_NAMED_RUNS = 64
_MAX_DIGITS = 15
_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".svg": "image/svg+xml",
        ".txt": "text/plain; charset=utf-8",
    }
)


def load_assets() -> dict[str, bytes]:
    """Return name -> bytes of every file of the page; read once, so that a request names no path."""
    root = files("esper.cli.dashboard") / "static"
    found = {item.name: item.read_bytes() for item in root.iterdir() if item.is_file()}
    for item in (root / "vendor").iterdir():
        found[f"vendor/{item.name}"] = item.read_bytes()
    return found


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """The application and what its server must know of it."""

    app: ASGIApp
    access: Access
    slots: StreamSlots


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Routes:
    """The answers; each takes a request."""

    views: Views
    access: Access
    slots: StreamSlots
    assets: Mapping[str, bytes] = field(default_factory=load_assets)

    def page(self, request: Request) -> Response:
        return _file("index.html", self.assets["index.html"])

    def asset(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        if name not in self.assets or name == "index.html":
            raise HTTPException(404, "no such file")
        return _file(name, self.assets[name])

    def runs(self, request: Request) -> Response:
        return _json(self.views.overview())

    def head(self, request: Request) -> Response:
        return _json(self.views.head(self._entry(request)))

    def growth(self, request: Request) -> Response:
        return _json(self.views.growth(self._entry(request), _number(request, "instance", 0)))

    def training(self, request: Request) -> Response:
        return _json(self.views.training(self._entry(request)))

    def events(self, request: Request) -> Response:
        return _json(self.views.events(self._entry(request), _query(request, "kind")))

    def decisions(self, request: Request) -> Response:
        return _json(self.views.decisions(self._entry(request), _query(request, "op")))

    def decision(self, request: Request) -> Response:
        found = self.views.decision(self._entry(request), _number(request, "n", -1))
        if found is None:
            raise HTTPException(404, "this decision is not held")
        return _json(found)

    def compare(self, request: Request) -> Response:
        named = [each for each in request.query_params.get("runs", "").split(",") if each]
        if len(named) > MAX_NAMED_RUNS:
            raise HTTPException(400, f"at most {MAX_NAMED_RUNS} runs are compared")
        return _json(self.views.compare(named))

    def stream(self, request: Request) -> ASGIApp:
        run_id = request.query_params.get("run", "")
        entry = self._find(run_id) if run_id else None
        if self.slots.num_open >= self.slots.max_streams:
            raise HTTPException(503, f"{self.slots.max_streams} pages are open already")
        last_n = parse_last_id(request.headers.get("last-event-id", ""), self.access.server_id)
        news = self._overview_news if entry is None else self._run_news(entry.id)
        return EventStream(news, self.slots, self.access.server_id, last_n)

    def _overview_news(self, last_n: int) -> dict[str, JsonValue]:
        return {"n": 0, "overview": self.views.overview()}

    def _run_news(self, run_id: str) -> Callable[[int], dict[str, JsonValue]]:
        def tell(last_n: int) -> dict[str, JsonValue]:
            entry = self.views.index.find(run_id)
            if entry is None:
                return {"n": last_n, "is_gone": True}
            return self.views.news(entry, last_n)

        return tell

    def _entry(self, request: Request) -> Entry:
        return self._find(str(request.path_params["run_id"]))

    def _find(self, run_id: str) -> Entry:
        entry = self.views.index.find(run_id)
        if entry is None:
            raise HTTPException(404, "no such run")
        return entry


def build_dashboard(index: RunIndex, access: Access | None = None) -> Dashboard:
    """Build the application over an index.

    Args:
        index: The runs that it shows.
        access: Secrets and names; None = new secrets, loopback names.
    """
    access, slots = access or Access(), StreamSlots()
    routes = _Routes(views=Views(index), access=access, slots=slots)
    table = [
        Route("/", routes.page),
        Route("/static/{name:path}", routes.asset),
        Route("/api/runs", routes.runs),
        Route("/api/runs/{run_id}", routes.head),
        Route("/api/runs/{run_id}/growth", routes.growth),
        Route("/api/runs/{run_id}/training", routes.training),
        Route("/api/runs/{run_id}/events", routes.events),
        Route("/api/runs/{run_id}/decisions", routes.decisions),
        Route("/api/runs/{run_id}/decision", routes.decision),
        Route("/api/compare", routes.compare),
        Route("/api/stream", routes.stream),
    ]
    app = Starlette(routes=table, exception_handlers={EsperError: _tell_error})
    return Dashboard(app=Guard(app, access), access=access, slots=slots)


def _file(name: str, data: bytes) -> Response:
    kind = _TYPES.get(name[name.rfind(".") :]) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(data, media_type=kind)


def _json(value: JsonValue) -> Response:
    return Response(dump(value), media_type="application/json")


def _tell_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error) + "\n", status_code=500)


def _number(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name, "")
    if not given:
        return default
    if not (given.isascii() and given.isdigit()) or len(given) > _MAX_DIGITS:
        raise HTTPException(400, f"{name} is a whole number, at least 0")
    return int(given)


def _query(request: Request, kind: str) -> ListQuery:
    text = request.query_params.get("text", "")
    wanted = request.query_params.get(kind, "")
    if max(len(text), len(wanted)) > MAX_FILTER_CHARS:
        raise HTTPException(400, f"a filter has at most {MAX_FILTER_CHARS} characters")
    instance, env = _number(request, "instance", -1), _number(request, "env", -1)
    return ListQuery(
        start=_number(request, "start", 0),
        count=min(MAX_ROWS, max(1, _number(request, "count", 100))),
        instance=None if instance < 0 else instance,
        env=None if env < 0 else env,
        kind=wanted,
        text=text,
    )
