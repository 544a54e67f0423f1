"""Downloads that are whole and right, or not there at all."""

from __future__ import annotations

import errno
import http.client
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from metabook.data.store import Source, absent, problem, write_atomically
from metabook.progress import progress_bar

ATTEMPTS = 3
TIMEOUT = 20.0  # seconds without a byte
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
STALE = 24 * 3600.0  # seconds after which a part file can only be what a killed process left


def download(source: Source, folder: Path, progress: bool | None = None, pause: float = 1.0) -> Path:
    """Download a file into a folder; it appears there only once its size and checksum are verified.

    Several processes may download the same file at once: each writes a part file of its own, and the last one
    replaces the others' result by the same bytes.

    Args:
        source: the file.
        folder: where to put it; made if need be.
        progress: show a bar; by default unless METABOOK_PROGRESS=0.
        pause: seconds before the second attempt, twice as many before the third.

    Returns:
        The path of the file.

    Raises:
        DataNotFound: the address cannot be reached, or does not give the official bytes.
        OSError: the folder cannot be written to.
    """
    path = folder / source.name
    for attempt in range(ATTEMPTS):
        try:
            _sweep(folder, source.name)
            write_atomically(path, lambda part: _transfer(source, part, progress))
            return path
        except _TRANSIENT as error:
            final = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if final or attempt == ATTEMPTS - 1:
                reason = getattr(error, "reason", None) or error
                raise absent(source, f"downloading {source.url} failed ({reason})") from error
            time.sleep(pause * 2**attempt)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            raise OSError(
                f"{source.name} cannot be written into {folder} ({error.strerror}); set METABOOK_CACHE to a folder "
                f"that can be written to"
            ) from error
    raise AssertionError("unreachable")


class _Damaged(Exception):
    """The server's bytes are not the official ones."""


_TRANSIENT = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    _Damaged,
)


def _transfer(source: Source, part: Path, progress: bool | None) -> None:
    request = urllib.request.Request(source.url, headers={"User-Agent": "metabook"})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT) as answer,
        part.open("xb") as file,
        progress_bar(source.size, progress, desc=source.name, unit="B", unit_scale=True) as bar,
    ):
        received = 0
        while block := answer.read(1 << 16):
            received += len(block)
            if received > source.size:
                raise _Damaged(f"more than the {source.size:,} bytes expected")
            file.write(block)
            bar.update(len(block))
    wrong = problem(source, part)
    if wrong:
        raise _Damaged(wrong)


def _sweep(folder: Path, name: str) -> None:
    for part in folder.glob(f".{name}.*.part"):
        try:
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()
        except OSError:  # another process was faster
            continue
