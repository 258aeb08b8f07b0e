"""An S3 endpoint in a process of its own, and a proxy before it that fails now and then."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec

from pipeline.environment import free_port

SECRET = "wJalrXUtnFEMI-this-must-not-be-shown"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLEKEY",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
BUCKET = "clips"


@contextmanager
def moto_server() -> Iterator[str]:
    """The address of an empty object store."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server ended"
                assert time.monotonic() < until, "the S3 server does not answer"
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def pointed_at(address: str, **more: str) -> Iterator[None]:
    """Send this process, and those it starts, to the endpoint."""
    wanted = {**CREDENTIALS, "AWS_ENDPOINT_URL": address, **more}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    forget()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        forget()


def forget() -> None:
    """File systems keep the endpoint they were made with."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def upload(folder: Path, url: str) -> str:
    """Copy a folder to `url`, made anew."""
    store, inner = fsspec.core.url_to_fs(url)
    if store.protocol != "memory" and not store.exists(inner.split("/")[0]):
        store.mkdir(inner.split("/")[0])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.pipe_file(f"{inner}/{path.relative_to(folder)}", path.read_bytes())
    return url


class FlakyProxy:
    """Passes requests on; `fails(path, times before)` gives a status to answer with instead, or 0 to cut the line."""

    def __init__(self, target: str, fails: Callable[[str, int], int | None]) -> None:
        self.asked: Counter[str] = Counter()
        self.failed = 0
        proxy, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with lock:
                    answer = fails(self.path, proxy.asked[self.path])
                    proxy.asked[self.path] += 1
                    proxy.failed += answer is not None
                if answer == 0:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                elif answer is not None:
                    self.send_response(answer)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self._pass_on()

            do_HEAD = do_GET  # noqa: N815

            def _pass_on(self) -> None:
                upstream = http.client.HTTPConnection(target.removeprefix("http://"), timeout=30)
                upstream.request(self.command, self.path, headers=dict(self.headers))
                answer = upstream.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
