"""`python -m metabook.data` lists the data sets; `python -m metabook.data fetch NAME ...` downloads them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from metabook.data import load_mnist, load_omniglot, load_pmlb, omniglot_oneshot_runs, pmlb_index, store
from metabook.data.local import available
from metabook.data.omniglot_files import PACKED, ZIPS
from metabook.data.pmlb import FOLDER, local_tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 when a fetch failed, 2 for a wrong command."""
    parser = argparse.ArgumentParser(
        prog="python -m metabook.data",
        description="The data sets of the book: what there is, where it lies on this machine, and downloads by name.",
        epilog="Files are looked for in the folder METABOOK_DATA, then in the cache (METABOOK_CACHE), then downloaded.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("list", help="what exists, where it lies, its size and licence (the default)")
    fetch = commands.add_parser("fetch", help="download data sets, unless they are on this machine")
    fetch.add_argument("names", nargs="+", metavar="NAME", choices=list(store.catalogue()), help="a name in the list")
    chosen = parser.parse_args(arguments)
    if chosen.command != "fetch":
        print(table())
        return 0
    return max(_fetch(name) for name in dict.fromkeys(chosen.names))


def table() -> str:
    """The list: two lines for each data set, and the folders in the order of the search."""
    lines = []
    for name, entry in store.catalogue().items():
        facts = f"{_size(name)}; {place(name)}; licence: {entry['licence']}"
        lines += [f"{name:<10}{entry['title']}", f"{'':<10}{facts}", ""]
    own = store.folders("")[:-1]
    lines.append(f"{store.VARIABLE}: {own[0] if own else 'not set'}")
    lines.append(f"cache: {store.cache_folder()}")
    return "\n".join(lines)


def place(name: str) -> str:
    """Where a data set lies, in words."""
    entry = store.catalogue()[name]
    if "comes_with" in entry:
        owner = {"sklearn": "scikit-learn"}.get(entry["comes_with"], entry["comes_with"])
        return f"comes with {owner}" if available(name) else f"absent: comes with {owner}, which is not installed"
    if not available(name):
        return f"absent: python -m metabook.data fetch {name}"
    folders = list(dict.fromkeys(path.parent for path in _files(name)))
    cached = store.cache_folder() / (FOLDER if name == "pmlb" else name)
    return "in " + " and ".join(f"{f} ({'cache' if f == cached else store.VARIABLE})" for f in folders)


def _files(name: str) -> list[Path]:
    if name == "pmlb":
        return local_tables()
    packed = [file for file, _, _ in PACKED.values()] if name == "omniglot" else []
    packed = [path for path in (store.locate(name, file) for file in packed) if path]
    official = [file.name for file in store.sources(name) if not (packed and file.name in ZIPS)]
    return packed + [path for path in (store.locate(name, file) for file in official) if path]


def _size(name: str) -> str:
    tables = pmlb_index().values() if name == "pmlb" else []
    official = sum(file.size for file in [*store.sources(name), *tables])
    if not official:
        return "no files of its own"
    if not available(name):
        return f"{official / 1e6:.1f} MB to download"
    return f"{sum(path.stat().st_size for path in _files(name)) / 1e6:.1f} MB"


def _fetch(name: str) -> int:
    try:
        if name == "omniglot":
            for size in PACKED:
                load_omniglot(size, "validation")
            omniglot_oneshot_runs()
        elif name == "mnist":
            for split in ("train", "test"):
                load_mnist(split)
        elif name == "pmlb":
            for table in pmlb_index():
                load_pmlb(table)
    except (OSError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    print(f"{name}: {place(name)}")
    return 0 if available(name) else 1


if __name__ == "__main__":
    sys.exit(main())
