"""The server of the local page: loopback alone, reading alone, nothing by the name of a file."""

import errno
import logging
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from past_core.errors import PastError
from past_core.slides import Slide
from past_core.view.answers import Answer, Answers, BadRequestError

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""Sent with every answer: the page loads from here alone, and no other page may use what is served."""


class PortError(PastError, OSError):
    """The port cannot be listened on."""


class ViewServer(ThreadingHTTPServer):
    """Serves one slide to this machine.

    Args:
        slide: an open slide.
        port: 0 for any free one.

    Raises:
        PortError: The port is in use, or not allowed.
    """

    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # there it would share a port that is in use

    def __init__(self, slide: Slide, *, port: int = 0) -> None:
        if not 0 <= port <= 65535:
            raise PortError(f"port {port} does not exist; give one from 1024 to 65535, or 0 for any free one")
        self.answers = Answers(slide)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            reason = {
                errno.EADDRINUSE: "is in use",
                errno.EACCES: "may not be used by this user",
            }.get(error.errno or 0, f"cannot be listened on ({error})")
            raise PortError(f"port {port} {reason}; give another --port, or 0 for any free one") from error

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.port}/"

    @property
    def hosts(self) -> set[str]:
        """What a browser on this machine calls this server; a page from elsewhere has another name for it."""
        names = (HOST, "localhost")
        return {f"{name}:{self.port}" for name in names} | (set(names) if self.port == 80 else set())

    def server_bind(self) -> None:
        """Binds without looking the machine's name up, which may ask the network."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(self.allow_reuse_address))
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle is nothing to report."""
        logger.debug("a request broke off: %r", sys.exc_info()[1])


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            self._refuse(HTTPStatus.FORBIDDEN, f"this server answers to {self.server.url} alone")
        elif self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.BAD_REQUEST, "a request for something to read has no body")
        else:
            self._answer()

    do_HEAD = do_GET  # noqa: N815  (the base class's names)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """The base class looks for a method named after the request's."""
        if name.startswith("do_"):
            return self._not_allowed
        raise AttributeError(name)

    def _not_allowed(self) -> None:
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered", Allow="GET, HEAD")

    def _answer(self) -> None:
        try:
            answer = self.server.answers.answer(self.path)
        except BadRequestError as error:
            self._say(HTTPStatus.BAD_REQUEST, str(error))
        except LookupError as error:
            if not isinstance(error, PastError):
                raise
            self._say(HTTPStatus.NOT_FOUND, str(error))
        except PastError as error:
            logger.debug("%s", error, exc_info=True)
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        else:
            kept = "private, max-age=86400, immutable" if answer.lasting else "no-store"
            self._send(HTTPStatus.OK, answer, {"Cache-Control": kept})

    def _say(self, status: HTTPStatus, message: str, **headers: str) -> None:
        text = Answer(f"{message}\n".encode(), "text/plain; charset=utf-8")
        self._send(status, text, {"Cache-Control": "no-store", **headers})

    def _refuse(self, status: HTTPStatus, message: str, **headers: str) -> None:
        self.close_connection = True  # a body that was sent is not read
        self._say(status, message, Connection="close", **headers)

    def _send(self, status: HTTPStatus, answer: Answer, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", answer.type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in (HEADERS | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the parser of requests refuses, in plain text too."""
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def version_string(self) -> str:
        return "past"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        logger.debug("%s %s", self.address_string(), format % args)
