"""The dashboard's web site: what is answered to whom, with which headers."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tools.dashboard.auth import Admitted, Door, TurnedAway, Visit, Welcomed
from tools.dashboard.stream import MAX_PAGES, Feed, Page, TooManyPages

STATIC: Final = Path(__file__).parent / "static"
# [s] A page that takes nothing for so long is cut off, and comes back if it still lives.
STUCK_S: Final = 30.0
_COOKIE_DAYS: Final = 30
_DAY_S: Final = 86_400
_OPEN_TO_ALL: Final = ("/static/", "/icon.svg")
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

History = Callable[[str], dict[str, list[list[float]]] | None]


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the page, held in memory: no request reaches the disk."""

    content: bytes
    media_type: str
    etag: str


def static_files(folder: Path = STATIC) -> dict[str, StaticFile]:
    """Return the page's files by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        media_type = mimetypes.guess_type(path.name)[0]
        assert media_type, f"{path.name}: of which kind is it?"
        # Not every machine's table says so, and a browser runs no module of another kind.
        media_type = "text/javascript" if path.suffix == ".js" else media_type
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
        found[path.name] = StaticFile(content, media_type, etag)
    return found


class Site:
    """Answers requests.

    Args:
        feed: What pages are sent.
        history: Returns a device's figures over time.
        door: Says who may have it.
        is_tls: It is served over TLS, so a cookie may be kept from all else.
        stuck_s: After so long a page that takes nothing is cut off.
    """

    def __init__(
        self, feed: Feed, history: History, door: Door, *, is_tls: bool, stuck_s: float = STUCK_S
    ) -> None:
        self._feed = feed
        self._history = history
        self._door = door
        self._is_tls = is_tls
        self._stuck_s = stuck_s
        self._files = static_files()

    def application(self) -> ASGIApp:
        """Return it for a server."""
        routes = [
            Route("/", self._page),
            Route("/icon.svg", self._icon),
            Route("/static/{name}", self._static),
            Route("/about", self._about),
            Route("/history/{client_id}", self._past),
            Route("/events", self._events),
        ]
        return _with_headers(self._guarded(Starlette(routes=routes)), is_tls=self._is_tls)

    # Who ------------------------------------------------------------------------------------------

    def _guarded(self, inner: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope)
            match self._judge(request):
                case Admitted():
                    await inner(scope, receive, send)
                case Welcomed(cookie, value):
                    await self._welcome(cookie, value)(scope, receive, send)
                case TurnedAway(status, words):
                    await self._turn_away(request, status, words)(scope, receive, send)

        return guarded

    def _judge(self, request: Request) -> Admitted | Welcomed | TurnedAway:
        path = request.url.path
        if path.startswith(_OPEN_TO_ALL) and self._door.wants_token:
            return Admitted()  # the same for everybody, and the form for the token needs them
        return self._door.judge(
            Visit(
                host=request.headers.get("host", ""),
                token=request.query_params.get("token", ""),
                cookies=tuple(request.cookies.items()),
                fetch_site=request.headers.get("sec-fetch-site", ""),
                is_page=path == "/",
            )
        )

    def _welcome(self, cookie: str, value: str) -> Response:
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            cookie,
            value,
            max_age=_COOKIE_DAYS * _DAY_S,
            httponly=True,
            secure=self._is_tls,
            samesite="lax",  # a link in a mail may lead here
        )
        return response

    def _turn_away(self, request: Request, status: int, words: str) -> Response:
        if status == 401 and request.url.path == "/":  # noqa: PLR2004  # a status code
            return self._file("door.html", request, status=401)
        return PlainTextResponse(f"fedfstq dashboard: {words}\n", status_code=status)

    # What -----------------------------------------------------------------------------------------

    def _page(self, request: Request) -> Response:
        return self._file("index.html", request)

    def _icon(self, request: Request) -> Response:
        return self._file("icon.svg", request)

    def _static(self, request: Request) -> Response:
        return self._file(request.path_params["name"], request)

    def _file(self, name: str, request: Request, *, status: int = 200) -> Response:
        file = self._files.get(name)
        if file is None:
            return PlainTextResponse("no such file\n", status_code=404)
        headers = {"etag": file.etag, "cache-control": "no-cache"}
        if status == 200 and request.headers.get("if-none-match") == file.etag:  # noqa: PLR2004
            return Response(status_code=304, headers=headers)
        return Response(file.content, status, headers, file.media_type)

    def _about(self, _: Request) -> Response:
        told = {"pages": self._feed.pages, "max_pages": MAX_PAGES}
        return JSONResponse(told, headers={"cache-control": "no-store"})

    def _past(self, request: Request) -> Response:
        points = self._history(request.path_params["client_id"])
        if points is None:
            return JSONResponse({"error": "no such device"}, status_code=404)
        return JSONResponse(points, headers={"cache-control": "no-store"})

    def _events(self, _: Request) -> Response:
        if not self._feed.is_ready:
            return PlainTextResponse("it is starting\n", 503, {"retry-after": "1"})
        wake = asyncio.Event()
        try:
            page = self._feed.open(wake.set)
        except TooManyPages:
            words = f"{MAX_PAGES} pages are open, no more are served\n"
            return PlainTextResponse(words, 503, {"retry-after": "10"})
        return _EventStream(self._feed, page, wake, stuck_s=self._stuck_s)


class _EventStream(Response):
    """Sends a page what it has to know, until it goes away or no longer takes it."""

    def __init__(self, feed: Feed, page: Page, wake: asyncio.Event, *, stuck_s: float) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._feed = feed
        self._one = page
        self._wake = wake
        self._stuck_s = stuck_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if scope["method"] != "HEAD":
                await self._converse(scope, receive, send)
        finally:
            self._feed.close(self._one)
        await send({"type": "http.response.body", "body": b""})

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(_until_left(receive))
        telling = asyncio.create_task(self._tell(send))
        try:
            await asyncio.wait({leaving, telling}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done() and isinstance(telling.exception(), TimeoutError):
                # What it was sent would wait for it in the socket; nothing flushes that.
                abort = scope.get("state", {}).get("abort")
                if abort is not None:
                    abort()
        finally:
            for task in (leaving, telling):
                task.cancel()
            await asyncio.gather(leaving, telling, return_exceptions=True)

    async def _tell(self, send: Send) -> None:
        while True:
            self._wake.clear()
            while chunk := self._one.take(self._feed.snapshot_event):
                message = {"type": "http.response.body", "body": chunk, "more_body": True}
                try:
                    await asyncio.wait_for(send(message), self._stuck_s)
                except asyncio.TimeoutError:
                    raise TimeoutError from None  # another class before Python 3.11
            await self._wake.wait()


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _with_headers(inner: ASGIApp, *, is_tls: bool) -> ASGIApp:
    headers: Mapping[str, str] = {
        **_HEADERS,
        **({"strict-transport-security": "max-age=31536000"} if is_tls else {}),
    }

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                told: Any = MutableHeaders(scope=message)
                told.update(headers)
            await send(message)

        await inner(scope, receive, send_more)

    return outer
