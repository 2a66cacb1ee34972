"""A caching HTTP proxy for apt, so that machines without a route can install packages through an SSH tunnel.

It serves only the hosts of this machine's own apt configuration. Immutable files come from the cache; when there is
no network at all, the last copy of everything else does.
"""

import hashlib
import os
import shutil
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

APT_SOURCES = (Path("/etc/apt/sources.list.d"), Path("/etc/apt/sources.list"))


def mirror_hosts() -> set[str]:
    """Return the host names of all mirrors in apt's configuration."""
    files = [
        path for place in APT_SOURCES for path in (place.glob("*") if place.is_dir() else [place]) if path.is_file()
    ]
    words = " ".join(path.read_text() for path in files).split()
    return {urlsplit(word).netloc for word in words if word.startswith("http://")}


def make_server(port: int, cache: Path) -> ThreadingHTTPServer:
    """Return a server bound to a loopback port; the caller runs and closes it."""
    cache.mkdir(parents=True, exist_ok=True)
    hosts = mirror_hosts()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = self.path
            if not url.startswith("http://") or urlsplit(url).netloc not in hosts:
                self.send_error(403)
                return
            copy = cache / hashlib.sha256(url.encode()).hexdigest()
            immutable = url.endswith(".deb") or "/by-hash/" in url
            if not (immutable and copy.exists()):
                status = self._fetch(url, copy)
                if status:
                    self.send_error(status)
                    return
            self.send_response(200)
            self.send_header("Content-Length", str(copy.stat().st_size))
            self.end_headers()
            with copy.open("rb") as body:
                shutil.copyfileobj(body, self.wfile)

        def _fetch(self, url: str, copy: Path) -> int:
            """Bring a file into the cache; return 0, or the HTTP status to refuse with."""
            part = copy.with_name(f"{copy.name}.{os.getpid()}.{threading.get_ident()}")
            try:
                with urllib.request.urlopen(url, timeout=120) as answer, part.open("wb") as body:
                    shutil.copyfileobj(answer, body)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return 0 if copy.exists() else 502
            part.replace(copy)
            return 0

        def log_message(self, *_: object) -> None:
            """Stay quiet; apt reports its own failures."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)
