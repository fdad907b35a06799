"""Connections that do not wait for ever: a request's headers must come in time, and be few."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEADER_BYTES = 64 * 2**10


class PatientConnection(HttpToolsProtocol):
    """A connection that is closed if no whole request head comes within `seconds`, or too large a one.

    How long a body may take is the application's matter.
    """

    seconds = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._head_bytes = 0
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(self.seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._timer is None:
                self._timer = self.loop.call_later(self.seconds, self._give_up)
        super().data_received(data)
        if self._in_head and self._head_bytes > MOST_HEADER_BYTES and not self.transport.is_closing():
            self._end(b"431 Request Header Fields Too Large", b"the headers are too large")

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as everything else is answered."""
        self._end(b"400 Bad Request", b"this is no HTTP request")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._in_head and not self.transport.is_closing():
            self._end(b"408 Request Timeout", b"the request did not come in time")

    def _end(self, status: bytes, why: bytes) -> None:
        body = b'{"error":"' + why + b'"}'
        head = b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
        self.transport.close()


def make_connection_class(seconds: float) -> Any:
    """Make the protocol that uvicorn takes for connections with this patience."""
    return type("Connection", (PatientConnection,), {"seconds": seconds})
