"""Real stores, as processes of their own: an S3 server, a web server; and a line to them that can be made to fail."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from benchmarks.shared.shell import free_port
from pipeline.addresses import Address
from pipeline.storage.stores import forget_stores, upload

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobody", "AWS_DEFAULT_REGION": "us-east-1"}
_PIECE = 1 << 16


@contextmanager
def serving(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            assert time.monotonic() < until, f"{command} does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


@contextmanager
def s3_server() -> Iterator[str]:
    """Moto's, empty; its URL."""
    port = free_port()
    with serving([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield f"http://127.0.0.1:{port}"


def nginx_settings(folder: Path, root: Path, ports: tuple[int, int], host: str, *, with_logs: bool = False) -> Path:
    """nginx's own file, in ``root`` with all that it writes: a folder's files, at the second port without ranges."""
    root.mkdir(parents=True, exist_ok=True)
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{name}_temp_path {root / name};" for name in places)
    logs = [f"access_log {root / f'{port}.log'};" if with_logs else "access_log off;" for port in ports]
    path = root / "nginx.conf"
    path.write_text(
        f"daemon off; worker_processes 1; pid {root / 'pid'}; error_log {root / 'error.log'}; user root;"
        f"events {{ worker_connections 64; }} http {{ {temporary}"
        f"server {{ listen {host}:{ports[0]}; root {folder}; {logs[0]} }}"
        f"server {{ listen {host}:{ports[1]}; root {folder}; {logs[1]} max_ranges 0; }} }}"
    )
    return path


@contextmanager
def web_server(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    """nginx over a folder: its URL, and another under which it knows no ranges. root: for its own files."""
    ports = free_port(), free_port()
    settings = nginx_settings(folder, root, ports, "127.0.0.1")
    with serving(["nginx", "-e", str(root / "start.log"), "-c", str(settings)], ports[0]):
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"


class Line:
    """A line to a server that harm is done to. What comes through is the server's own answer.

    Attributes:
        url: of this end.
        gets: how often the content of each path was asked for.
        refusals: answers still to be replaced by ``answer``, an HTTP status.
        cut_after: bytes after which the next content breaks off; None: never.
        is_down: connections are closed without a word.
        down_after: contents of shards after which that comes to be; None: never.
        delay_s: before each piece of content.
    """

    def __init__(self, server: str) -> None:
        self.gets: Counter[str] = Counter()
        self.refusals, self.answer = 0, 503
        self.cut_after: int | None = None
        self.down_after: int | None = None
        self.is_down, self.delay_s = False, 0.0
        self._there = urlsplit(server)
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with suppress(OSError):  # of either end: the connection is closed
                    line._pass_on(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def _pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        if self.is_down:
            return
        if handler.command == "GET":
            path = handler.path.partition("?")[0]
            if path.endswith(".tar") and self.down_after is not None:
                self.down_after -= 1
                self.is_down = self.down_after < 0
                if self.is_down:
                    return
            self.gets[path] += 1
        if self.refusals and handler.path.partition("?")[0].endswith(".tar"):
            self.refusals -= 1
            handler.send_response(self.answer)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        assert self._there.hostname is not None
        upstream = http.client.HTTPConnection(self._there.hostname, self._there.port, timeout=30)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        upstream.request(handler.command, handler.path, body or None, dict(handler.headers.items()))
        answer = upstream.getresponse()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                handler.send_header(name, value)
        handler.end_headers()
        self._send(handler, answer)
        upstream.close()

    def _send(self, handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse) -> None:
        sent, is_content = 0, handler.command == "GET" and handler.path.partition("?")[0].endswith(".tar")
        while piece := answer.read(_PIECE):
            if is_content and self.is_down:
                return
            if is_content and self.delay_s:
                time.sleep(self.delay_s)
            if is_content and self.cut_after is not None and sent + len(piece) > self.cut_after:
                handler.wfile.write(piece[: self.cut_after - sent])
                self.cut_after = None
                return
            handler.wfile.write(piece)
            sent += len(piece)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def s3_at(url: str) -> Iterator[None]:
    """Whoever speaks S3 meanwhile, in this process and in those it starts, speaks with the server at this URL."""
    before = dict(os.environ)
    os.environ |= {**CREDENTIALS, "AWS_ENDPOINT_URL": url}
    forget_stores()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
        forget_stores()


def put(folder: Path, address: Address) -> None:
    """Copy the files of a folder into a bucket, which is made if need be."""
    store = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    if not store.exists(address.bucket):
        store.mkdir(address.bucket)
    for path in sorted(folder.iterdir()):
        if path.is_file():
            upload(path, address.join(path.name))
