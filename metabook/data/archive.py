"""Reading packed files that may be hostile, without ever writing what is in them to disk."""

from __future__ import annotations

import gzip
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MEMBERS = 50_000
TOTAL_BYTES = 1 << 28
RATIO = 1000


def read_gzip(path: Path, most: int) -> bytes:
    """What is in a gzip file.

    Args:
        path: the file.
        most: most bytes it may unpack to.

    Raises:
        ValueError: not such a file, a damaged one, or a larger one.
    """
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a gzip file: {error}") from error
    if len(content) > most:
        raise ValueError(f"{path} unpacks to more than {most:,} bytes; it is refused")
    return content


def read_zip(
    path: Path, *, members: int = MEMBERS, total_bytes: int = TOTAL_BYTES, suffix: str = ""
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the name and content of each file in a zip, in its order; the whole directory is checked first.

    Args:
        path: the zip file.
        members: most entries allowed.
        total_bytes: most bytes allowed, all members together, unpacked.
        suffix: only files whose name ends so.

    Raises:
        ValueError: not a zip or a damaged one; an unsafe name (absolute, `..`, backslash, drive, control
            characters, twice the same), a link, an encrypted member; more or larger members than allowed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check(path, entries, members, total_bytes)
            for entry in entries:
                if not entry.is_dir() and entry.filename.endswith(suffix):
                    # zipfile stops at the size that was declared, and refuses what does not match its checksum
                    yield PurePosixPath(entry.filename), archive.read(entry)
    except (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error) as error:  # RuntimeError: a method zipfile lacks
        raise ValueError(f"{path} cannot be read as a zip file: {error}") from error


def _check(path: Path, entries: list[zipfile.ZipInfo], members: int, total_bytes: int) -> None:
    if len(entries) > members:
        raise ValueError(f"{path} has {len(entries):,} entries, more than the {members:,} allowed; it is refused")
    declared = sum(entry.file_size for entry in entries)
    if declared > total_bytes:
        raise ValueError(f"{path} declares {declared:,} bytes, more than the {total_bytes:,} allowed; it is refused")
    seen: set[str] = set()
    for entry in entries:
        name = entry.orig_filename  # `filename` is cut at a zero byte and has its backslashes turned on Windows
        why = _unsafe(name)
        if name in seen:
            why = "the name occurs twice"
        elif stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            why = "it is a link or a device"
        elif entry.flag_bits & 1:
            why = "it is encrypted"
        elif entry.file_size > RATIO * max(entry.compress_size, 1):
            why = f"it unpacks to more than {RATIO} times its size"
        if why:
            raise ValueError(f"{path} is refused because of its member {name!r}: {why}")
        seen.add(name)


def _unsafe(name: str) -> str | None:
    parts = name.rstrip("/").split("/")
    if name.startswith("/"):
        return "an absolute path"
    if "\\" in name or ":" in name:
        return "a backslash or a drive"
    if any(ord(c) < 32 for c in name):
        return "a control character"
    if any(part in ("", ".", "..") for part in parts):
        return "a path that leaves its folder or has empty parts"
    return None
