"""Move the book to another public address: `python tools/set_address.py https://github.com/OWNER/NAME`.

The address stands in pyproject.toml and _config.yml; the setup cells, links and the citation derive from it.  All
of them are changed, and it is checked that nothing of the old address is left.  Running it twice changes nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import tomllib
from setup_cell import ROOT

REPOSITORY = re.compile(r"https://github\.com/(?P<owner>[A-Za-z0-9][\w-]*)/(?P<name>[\w.-]+?)(?:\.git)?/?")
SKIPPED = {".git", ".venv", "_build", "build", "dist", "node_modules", "__pycache__"}


class Address(NamedTuple):
    """Where the book is public: `owner/name` on GitHub, and the address of its site."""

    slug: str
    site: str

    @property
    def repository(self) -> str:
        """The address of the repository."""
        return f"https://github.com/{self.slug}"


def parse(repository: str, site: str | None = None) -> Address:
    """An address from the repository's URL; the site is GitHub's page of it unless it is given.

    Raises:
        ValueError: it is no repository on GitHub (Colab opens notebooks from there), or the site no https address.
    """
    match = REPOSITORY.fullmatch(repository)
    if match is None:
        raise ValueError(f"{repository!r} is no repository that Colab opens; expected https://github.com/OWNER/NAME")
    owner, name = match["owner"], match["name"]
    root = f"https://{owner.lower()}.github.io"
    site = site or (root if f"https://{name.lower()}" == root else f"{root}/{name}")
    if not re.fullmatch(r"https://[\w.-]+(?:/[\w./-]*)?", site):
        raise ValueError(f"{site!r} is no address of a site; expected https://...")
    return Address(f"{owner}/{name}", site.rstrip("/"))


def current(root: Path = ROOT) -> Address:
    """The address that pyproject names."""
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    return parse(urls["Repository"], urls["Documentation"])


def text_files(root: Path) -> list[Path]:
    """Every text file of the project: what git knows or would add, or all files where there is no git."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
        paths = [root / name for name in listed if name]
    except (subprocess.CalledProcessError, FileNotFoundError):
        paths = [path for path in root.rglob("*") if not SKIPPED & set(path.relative_to(root).parts)]
    return sorted(path for path in paths if path.is_file() and not path.is_symlink() and _is_text(path))


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(8192)


def _patterns(address: Address) -> list[re.Pattern[str]]:
    """The site (any case of its host) and `owner/name`, where neither goes on into a longer name."""
    return [
        re.compile(re.escape(address.site.removeprefix("https://")) + r"(?![\w-])", re.IGNORECASE),
        re.compile(r"(?<![\w.-])" + re.escape(address.slug) + r"(?![\w-])"),
    ]


def change(text: str, old: Address, new: Address) -> str:
    """The text with the old address, wherever it stands, replaced by the new one."""
    replacements = (new.site.removeprefix("https://"), new.slug)
    # both at once: what one replacement wrote is no matter for the other
    both = re.compile("|".join(f"({pattern.pattern})" for pattern in _patterns(old)), re.IGNORECASE)
    return both.sub(lambda match: replacements[0] if match[1] is not None else replacements[1], text)


def set_address(new: Address, root: Path = ROOT, dry_run: bool = False) -> list[Path]:
    """Change the address in every file; returns the files that change.

    Raises:
        RuntimeError: something of the old address is left.
    """
    old, changed = current(root), []
    if old == new:
        return changed
    for path in text_files(root):
        before = path.read_bytes().decode("utf-8", errors="surrogateescape")
        after = change(before, old, new)
        if after == before:
            continue
        changed.append(path)
        if not dry_run:
            scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            scratch.write_bytes(after.encode("utf-8", errors="surrogateescape"))
            scratch.chmod(path.stat().st_mode)
            os.replace(scratch, path)
    if not dry_run:
        left = [path for path in text_files(root) if _holds(path, old, new)]
        if left or current(root) != new:
            raise RuntimeError(f"the old address is left in {[str(p.relative_to(root)) for p in left]}")
    return changed


def _holds(path: Path, old: Address, new: Address) -> bool:
    """Whether a file names the old address other than as a part of the new one."""
    text = path.read_text(encoding="utf-8", errors="replace")
    for pattern in _patterns(new):
        text = pattern.sub("", text)
    return any(pattern.search(text) for pattern in _patterns(old))


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", help="https://github.com/OWNER/NAME")
    parser.add_argument("--site", help="default: https://OWNER.github.io/NAME")
    parser.add_argument("--dry-run", action="store_true", help="only say which files would change")
    options = parser.parse_args(arguments)
    try:
        new = parse(options.repository, options.site)
    except ValueError as error:
        parser.error(str(error))
    changed = set_address(new, dry_run=options.dry_run)
    for path in changed:
        print(path.relative_to(ROOT))
    print(f"{len(changed)} files {'would change' if options.dry_run else 'changed'}: {new.repository}, {new.site}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
