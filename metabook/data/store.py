"""Files of public data sets: looked up in METABOOK_DATA, then in the cache, then downloaded and checked.

The addresses, sizes and checksums are data: `sources.json` beside this file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "METABOOK_DATA"


class DataNotFound(FileNotFoundError):
    """A file of a data set is neither on this machine nor to be had from its address."""


@dataclass(frozen=True)
class Source:
    """One official file.

    Attributes:
        dataset: the data set it belongs to, and the folder it lies in.
        name: file name.
        url: official address.
        size: bytes.
        checksums: hexadecimal digests by algorithm: "sha256", "md5" or "git_blob_sha1".
    """

    dataset: str
    name: str
    url: str
    size: int
    checksums: dict[str, str]


def catalogue() -> dict[str, dict]:
    """What `sources.json` says: title, licence and files of each data set, by name."""
    return json.loads(Path(__file__).with_name("sources.json").read_text(encoding="utf-8"))


def sources(dataset: str) -> list[Source]:
    """The official files of a data set.

    Raises:
        ValueError: no data set of that name.
    """
    known = catalogue()
    if dataset not in known:
        raise ValueError(f"no data set is called {dataset!r}; there are {', '.join(known)}")
    files = [dict(entry) for entry in known[dataset]["files"]]
    return [Source(dataset, f.pop("name"), f.pop("url"), f.pop("size"), f) for f in files]


def cache_folder() -> Path:
    """METABOOK_CACHE, or `metabook` in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    if os.environ.get("METABOOK_CACHE"):
        return Path(os.environ["METABOOK_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "metabook"


def folders(dataset: str) -> list[Path]:
    """Where the files of a data set may lie on this machine, in the order of the search."""
    own = os.environ.get(VARIABLE)
    return [*([Path(own).expanduser() / dataset] if own else []), cache_folder() / dataset]


def locate(dataset: str, name: str) -> Path | None:
    """The first place where a file of that name lies, unchecked; None where there is none."""
    return next((folder / name for folder in folders(dataset) if (folder / name).is_file()), None)


def problem(source: Source, path: Path) -> str | None:
    """What is wrong with a file, or None when its size and checksums are the official ones."""
    if path.stat().st_size != source.size:
        return f"it has {path.stat().st_size:,} bytes instead of {source.size:,}"
    digests = {kind: _hasher(kind, source.size) for kind in source.checksums}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
    for kind, expected in source.checksums.items():
        if digests[kind].hexdigest() != expected:
            return f"its {kind} is {digests[kind].hexdigest()} instead of {expected}"
    return None


def get(dataset: str, name: str, download: bool = True) -> Path:
    """The path of an official file of the catalogue, as `fetched` gives it.

    Raises:
        ValueError: the data set has no such file, or as in `fetched`.
        DataNotFound: as in `fetched`.
    """
    source = next((s for s in sources(dataset) if s.name == name), None)
    if source is None:
        raise ValueError(f"{dataset} has no file {name!r}; it has {', '.join(s.name for s in sources(dataset))}")
    return fetched(source, download)


def fetched(source: Source, download: bool = True) -> Path:
    """The path of an official file whose size and checksum were verified; downloaded if need be.

    Raises:
        DataNotFound: it is not on this machine and cannot, or may not, be downloaded.
        ValueError: the copy in METABOOK_DATA is damaged (a damaged copy in the cache is thrown away instead).
    """
    cached = cache_folder() / source.dataset / source.name
    path = locate(source.dataset, source.name)
    if path is not None:
        wrong = problem(source, path)
        if wrong is None:
            return path
        if path != cached:
            raise ValueError(f"{path} is not the official file: {wrong}; replace it or unset {VARIABLE}")
        path.unlink(missing_ok=True)
    if not download:
        raise absent(source, "it may not be downloaded here (download=False)")
    from metabook.data.download import download as transfer

    return transfer(source, cached.parent)


def absent(source: Source, why: str) -> DataNotFound:
    """The one error for a file that cannot be had."""
    own = os.environ.get(VARIABLE)
    places = " or ".join(str(folder) for folder in folders(source.dataset))
    return DataNotFound(
        f"{source.name} of {source.dataset} is not in {places}, and {why}. Connect to the network and try again, or "
        f"fetch {source.url} yourself, put it into a folder named {source.dataset} and set {VARIABLE} to the folder "
        f"above it ({VARIABLE} is {'now ' + own if own else 'not set'})."
    )


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    Readers see the old file or the whole new one, and writers do not meet: each has a file of its own.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _hasher(kind: str, size: int) -> hashlib._Hash:
    if kind == "git_blob_sha1":  # git hashes a header before the content
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    return hashlib.new(kind, usedforsecurity=kind == "sha256")
