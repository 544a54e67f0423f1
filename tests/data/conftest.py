"""Fixtures for the data sets: an empty cache, and a web server that misbehaves on request."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """No METABOOK_DATA and an empty cache; gives the folder of the cache."""
    monkeypatch.delenv("METABOOK_DATA", raising=False)
    monkeypatch.setenv("METABOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Server:
    """Serves `content[path]`; its `behaviour` is whole, short, flaky, missing, or gated: the second half waits."""

    def __init__(self):
        self.content, self.behaviour, self.requests = {}, {}, []
        self.gate = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def add(self, path, content, behaviour="whole"):
        self.content[path], self.behaviour[path] = content, behaviour
        return f"http://127.0.0.1:{self.http.server_port}{path}"

    def answer(self, request):
        path, content = request.path, self.content[request.path]
        behaviour, earlier = self.behaviour[path], self.requests.count(path)
        self.requests.append(path)
        if behaviour == "missing" or (behaviour == "flaky" and earlier == 0):
            request.send_error(404 if behaviour == "missing" else 503)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if behaviour == "short":
            content = content[: len(content) // 2]
        half = len(content) // 2
        try:
            request.wfile.write(content[:half])
            if behaviour == "gated":
                self.gate.wait(60)
            request.wfile.write(content[half:])
        except OSError:  # the client was killed
            pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    yield made
    made.gate.set()
    made.http.shutdown()
    made.http.server_close()
