"""The ingress: routes, limits and answers of the HTTP interface; knows nothing of Ray."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from contract.model_answers import DEFAULT_COVERAGE, find_set_threshold
from contract.model_card import ModelCard
from serving.server.api import make_docs_page, make_openapi
from serving.server.bodies import Limits, RequestError, SentImage, name_rows, read_images
from serving.server.metrics import ServerMetrics

logger = logging.getLogger("unfreeze")
PAGE = Path(__file__).parents[1] / "page"
PAGE_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Files beside the page that it may load, by suffix."""

DOCS_CSS = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:0}"
    "main{max-width:48rem;margin:auto;padding:1rem}"
    "h2{font-size:1.1rem;margin:2rem 0 .25rem}p{margin:.25rem 0}"
)
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer: a page loads nothing from elsewhere, and stands in no other page."""

SMALL_BODY = 256 * 2**10
"""Bytes up to which a body is taken apart at once, not in a thread."""

Rows = list[dict[str, Any] | str]


class Unavailable(Exception):
    """No replica could answer in time; the message is a line that says why."""


class Calls(Protocol):
    """A model's replicas, as the ingress calls them."""

    async def classify(self, contents: list[bytes], coverage: float) -> dict[str, Any]:
        """Answer for files as `ModelReplica.classify` does.

        Raises:
            Unavailable: no replica could answer in time.
        """

    async def explain(self, content: bytes, label: str | None) -> dict[str, Any] | str:
        """Tell what the model looked at, as `ModelReplica.explain` does."""


@dataclass(kw_only=True)
class ServedModel:
    """A model at work; a new version takes its place as a whole."""

    name: str
    version: str
    format: str
    card: ModelCard
    calls: Calls
    num_running: int = 0
    """Requests that this version is answering."""


@dataclass(kw_only=True)
class Service:
    """What the routes share."""

    names: tuple[str, ...]
    """Names of all models; the first is the default."""

    limits: Limits
    request_timeout: float
    """Seconds that a client may take to send a request."""

    most_held: int
    """Bytes of the bodies of all requests that are being answered."""

    token: str | None = None
    models: dict[str, ServedModel] = field(default_factory=dict)
    """Models at work by name; one that is not there yet is being started."""

    reload: Callable[[str], Awaitable[dict[str, Any]]] | None = None
    metrics: ServerMetrics = field(default_factory=ServerMetrics)
    held: int = 0

    def find(self, name: str | None) -> ServedModel:
        """Find a model by name; None is the default.

        Raises:
            RequestError: there is no such model (404), or it is still starting (503).
        """
        name = self.names[0] if name is None else name
        if name not in self.names:
            raise RequestError(404, f"no model {name[:60]!r}: there are {', '.join(self.names)}")
        if name not in self.models:
            raise RequestError(503, f"model {name} is still starting")
        return self.models[name]


def make_app(service: Service) -> Starlette:
    """Make the application of a service."""

    def route(path: str, answer: Callable[[Service, Request], Awaitable[Response]], method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            return await _answer(service, request, answer, path)

        return Route(path, endpoint, methods=[method])

    async def refuse(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        what = {404: "there is no such page: see /docs", 405: f"not by {request.method}: see /docs"}
        service.metrics.count_request("", status, 0.0)
        headers = getattr(error, "headers", None) or {}
        return JSONResponse({"error": what.get(status, str(error))}, status, {**HEADERS, **headers})

    routes = [
        route("/", _page, "GET"),
        route("/predict", _predict, "POST"),
        route("/explain", _explain, "POST"),
        route("/models", _models, "GET"),
        route("/models/{name}/predict", _predict, "POST"),
        route("/models/{name}/explain", _explain, "POST"),
        route("/models/{name}/reload", _reload, "POST"),
        route("/health", _health, "GET"),
        route("/metrics", _metrics, "GET"),
        route("/docs", _docs, "GET"),
        route("/openapi.json", _openapi, "GET"),
        route("/docs.css", _docs_style, "GET"),
        *(route(f"/{one.name}", _page_file, "GET") for one in PAGE.glob("*") if one.suffix in PAGE_TYPES),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: refuse})


async def _answer(
    service: Service,
    request: Request,
    answer: Callable[[Service, Request], Awaitable[Response]],
    path: str,
) -> Response:
    began = time.perf_counter()
    try:
        response = await answer(service, request)
    except RequestError as error:
        response = _refuse(error)
    except Unavailable as error:
        response = _refuse(RequestError(503, str(error)))
    except ClientDisconnect:
        response = _refuse(RequestError(400, "the client has gone"))
    except Exception:  # a fault of this program: told in the log, and to the client without its inside
        logger.exception("a request to %s failed", path)
        response = _refuse(RequestError(500, "the server failed: its log says why"))
    service.metrics.count_request(path, response.status_code, time.perf_counter() - began)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _refuse(error: RequestError) -> Response:
    response = JSONResponse({"error": str(error), **error.further}, error.status)
    if error.status in (429, 503):
        response.headers["Retry-After"] = "1"
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status == 408:
        response.headers["Connection"] = "close"
    return response


def _check_token(service: Service, request: Request) -> None:
    if service.token is None:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), service.token.encode())
    if kind.lower() != "bearer" or not same:
        raise RequestError(401, "send the server's token: Authorization: Bearer TOKEN")


def _check_query(request: Request, *known: str) -> None:
    for name in request.query_params:
        if name not in known:
            raise RequestError(422, f"unknown parameter {name[:60]!r}: there is {', '.join(known) or 'none'}")
        if len(request.query_params.getlist(name)) > 1:
            raise RequestError(422, f"parameter {name} stands twice")


def _read_coverage(request: Request, card: ModelCard) -> float:
    text = request.query_params.get("coverage")
    if text is None:
        return DEFAULT_COVERAGE
    try:
        coverage = float(text)
        if not 0 < coverage < 1:
            raise ValueError(f"coverage {text[:20]} is not between 0 and 1")
        find_set_threshold(card, coverage)
    except ValueError as error:
        message = str(error) if "coverage" in str(error) else f"coverage {text[:20]!r} is no number"
        raise RequestError(422, message) from None
    return coverage


@asynccontextmanager
async def _sent_images(service: Service, request: Request, *, most: int) -> AsyncIterator[list[SentImage]]:
    """Read the images of a request; its bytes count as held until it is answered."""
    body = bytearray()
    try:
        await _receive(service, request, body)
        content, content_type = bytes(body), request.headers.get("content-type", "")
        if len(content) <= SMALL_BODY:
            yield read_images(content, content_type, most_images=most)
        else:
            yield await asyncio.to_thread(read_images, content, content_type, most_images=most)
    finally:
        service.held -= len(body)


async def _receive(service: Service, request: Request, body: bytearray) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "Content-Encoding is not read: send the request uncompressed")
    too_many = f"more than the {service.limits.most_bytes / 2**20:g} MiB that a request may have"
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > service.limits.most_bytes:
        raise RequestError(413, too_many)
    try:
        async with asyncio.timeout(service.request_timeout):
            async for chunk in request.stream():
                body += chunk
                service.held += len(chunk)
                if len(body) > service.limits.most_bytes:
                    raise RequestError(413, too_many)
                if service.held > service.most_held:
                    raise RequestError(429, "too many requests at once: send it again")
    except TimeoutError:
        seconds = f"{service.request_timeout:g} s"
        raise RequestError(408, f"the request did not come whole in {seconds}") from None


async def _predict(service: Service, request: Request) -> Response:
    _check_token(service, request)
    _check_query(request, "coverage")
    name = request.path_params.get("name")
    coverage = _read_coverage(request, service.find(name).card)
    async with _sent_images(service, request, most=service.limits.most_images) as sent:
        model = service.find(name)  # a new version may have come while the images did
        model.num_running += 1
        try:
            rows = await _classify(service, model, sent, coverage)
        finally:
            model.num_running -= 1
        predictions = name_rows(sent, rows)
    return JSONResponse({"model": model.name, "version": model.version, "predictions": predictions})


async def _classify(service: Service, model: ServedModel, sent: list[SentImage], coverage: float) -> Rows:
    contents = [one.content for one in sent if one.error is None]
    reply = await model.calls.classify(contents, coverage) if contents else {"rows": [], "batches": []}
    found = iter(reply["rows"])
    rows = [next(found) if one.error is None else one.error for one in sent]
    refused = sum(isinstance(row, str) for row in rows)
    service.metrics.count_batches(model.name, reply["batches"])
    service.metrics.count_images(model.name, answered=len(rows) - refused, refused=refused)
    return rows


async def _explain(service: Service, request: Request) -> Response:
    _check_token(service, request)
    _check_query(request, "label")
    model = service.find(request.path_params.get("name"))
    label = request.query_params.get("label")
    if label is not None and label not in model.card.classes:
        raise RequestError(422, f"no class {label[:60]!r}: there are {', '.join(model.card.classes[:20])}")
    async with _sent_images(service, request, most=1) as sent:
        if sent[0].error is not None:
            raise RequestError(400, sent[0].error)
        model = service.find(model.name)  # a new version may have come while the image did
        model.num_running += 1
        try:
            found = await model.calls.explain(sent[0].content, label)
        except NotImplementedError as error:
            raise RequestError(501, str(error)) from None
        finally:
            model.num_running -= 1
    if isinstance(found, str):
        raise RequestError(400, found)
    return JSONResponse(found)


async def _reload(service: Service, request: Request) -> Response:
    _check_token(service, request)
    _check_query(request)
    model = service.find(request.path_params["name"])
    assert service.reload is not None
    try:
        return JSONResponse(await service.reload(model.name))
    except ValueError as error:
        raise RequestError(409, f"version {model.version} goes on: {error}") from None


async def _models(service: Service, request: Request) -> Response:
    _check_token(service, request)
    return JSONResponse({"models": [_describe(service.models.get(name), name) for name in service.names]})


def _describe(model: ServedModel | None, name: str) -> dict[str, Any]:
    if model is None:
        return {"name": name, "ready": False}
    card = model.card
    return {
        "name": name,
        "ready": True,
        "version": model.version,
        "format": model.format,
        "classes": list(card.classes),
        "image_size": card.image_size,
        "coverages": sorted(float(one) for one in card.set_thresholds),
        "tells_unknown": card.unknown is not None and card.unknown.threshold is not None,
        "card": _plain(card.facts),
    }


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "classes"}


async def _health(service: Service, _: Request) -> Response:
    missing = [name for name in service.names if name not in service.models]
    if missing:
        return JSONResponse({"status": "starting", "waiting_for": missing}, 503)
    return JSONResponse(
        {"status": "ok", "models": {one.name: one.version for one in service.models.values()}}
    )


async def _metrics(service: Service, request: Request) -> Response:
    _check_token(service, request)
    return Response(service.metrics.as_text(), media_type=service.metrics.content_type)


async def _openapi(service: Service, _: Request) -> Response:
    return JSONResponse(make_openapi(service.names, with_token=service.token is not None))


async def _docs(service: Service, _: Request) -> Response:
    return HTMLResponse(
        make_docs_page(make_openapi(service.names, with_token=service.token is not None), style="/docs.css")
    )


async def _page(_: Service, __: Request) -> Response:
    page = PAGE / "index.html"
    if not page.is_file():
        return HTMLResponse("<!doctype html><title>Unfreeze</title><a href='/docs'>The interface</a>")
    return HTMLResponse(page.read_text(encoding="utf-8"))


async def _page_file(_: Service, request: Request) -> Response:
    path = PAGE / request.url.path.removeprefix("/")  # a route of make_app, and nothing else
    return Response(path.read_bytes(), media_type=PAGE_TYPES[path.suffix])


async def _docs_style(_: Service, __: Request) -> Response:
    return Response(DOCS_CSS, media_type="text/css")
