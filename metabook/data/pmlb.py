"""PMLB: small tables for classification, 69 sets of the Penn Machine Learning Benchmarks.

R. S. Olson, W. La Cava, P. Orzechowski, R. J. Urbanowicz and J. H. Moore, "PMLB: a large benchmark suite for machine
learning evaluation and comparison", BioData Mining 10 (2017) 36; J. D. Romano et al., "PMLB v1.0: an open-source
dataset collection for benchmarking machine learning methods", Bioinformatics 38 (2022) 878-880.

Address, size and checksum of each file derive from `pmlb.csv` beside this file, which also tells the shape of every
set without a download.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metabook.data import store
from metabook.data.archive import read_gzip

COMMIT = "7c1f4bdc00136dc2e55c87fa6b8ba6e8af6d1a68"
ADDRESS = f"https://github.com/EpistasisLab/pmlb/raw/{COMMIT}/datasets"
FOLDER = "pmlb/data"  # in METABOOK_DATA and in the cache
MISSING = ("", "NA")


class Table(NamedTuple):
    """One data set.

    Attributes:
        x: `(rows, columns)` float32, as in the file: not scaled, categories as numbers, nan where a value is missing.
        y: `(rows,)` int64, classes from 0 in the order of the file's labels.
        columns: names of the columns.
        name: name of the data set.
    """

    x: Tensor
    y: Tensor
    columns: tuple[str, ...]
    name: str

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1


class Facts(NamedTuple):
    """What is known of a data set before it is fetched."""

    rows: int
    columns: int
    classes: int
    missing: int
    size: int
    sha256: str

    @property
    def checksums(self) -> dict[str, str]:
        return {"sha256": self.sha256}


def pmlb_index() -> dict[str, Facts]:
    """The data sets by name, in alphabetical order."""
    with Path(__file__).with_name("pmlb.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["dataset"]: Facts(*(int(row[field]) for field in Facts._fields[:-1]), row["sha256"])
            for row in csv.DictReader(file)
        }


def load_pmlb(name: str, *, download: bool = True) -> Table:
    """One table, verified; downloaded (a few kB) if need be.

    It is looked for as `pmlb/data/<name>.tsv.gz` in METABOOK_DATA and in the cache.

    Args:
        name: a name in `pmlb_index()`.
        download: fetch the file when it is not on this machine.

    Raises:
        DataNotFound: the file is not on this machine, and not to be had.
        ValueError: an unknown name, or a damaged file in METABOOK_DATA.
    """
    known = pmlb_index()
    if name not in known:
        raise ValueError(f"PMLB has no set {name!r} here; pmlb_index() lists the {len(known)} there are")
    facts = known[name]
    source = store.Source(FOLDER, f"{name}.tsv.gz", f"{ADDRESS}/{name}/{name}.tsv.gz", facts.size, facts.checksums)
    table = read_table(store.fetched(source, download), name)
    shape = (*table.x.shape, table.classes)
    if shape != (facts.rows, facts.columns, facts.classes):
        raise ValueError(f"{name} has (rows, columns, classes) {shape} instead of {facts[:3]}; the index is wrong")
    return table


def local_tables() -> list[Path]:
    """The files that are on this machine, looked for and not verified."""
    found = [store.locate(FOLDER, f"{name}.tsv.gz") for name in pmlb_index()]
    return [path for path in found if path]


def read_table(path: Path, name: str, most: int = 1 << 26) -> Table:
    """A table from a gzip file of tab-separated numbers whose header names a column `target`.

    Where two columns bear that name (`schizo`), the first is the target, as in PMLB's own reader and summary.

    Args:
        path: the file.
        name: what to call the table.
        most: most bytes it may unpack to.

    Raises:
        ValueError: not such a file, a damaged one, or a larger one.
    """
    content = read_gzip(path, most)
    lines = content.decode("utf-8", errors="replace").splitlines()
    header = lines[0].split("\t") if lines else []
    if "target" not in header:
        raise ValueError(f"{path} has no column named 'target'; its header starts with {header[:5]}")
    try:
        values = np.array([[_number(word) for word in line.split("\t")] for line in lines[1:] if line])
    except ValueError as error:
        raise ValueError(f"{path} is not a table of numbers: {error}") from error
    if values.ndim != 2 or values.shape[1] != len(header):
        raise ValueError(f"{path} is damaged: a header of {len(header)} columns over an array {values.shape}")
    target = header.index("target")
    labels = values[:, target]
    if not np.isfinite(labels).all():
        raise ValueError(f"{path} is damaged: {int((~np.isfinite(labels)).sum())} rows have no target")
    return Table(
        x=torch.from_numpy(np.delete(values, target, axis=1)).float(),
        y=torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(-1)).long(),
        columns=(*header[:target], *header[target + 1 :]),
        name=name,
    )


def _number(word: str) -> float:
    return float("nan") if word in MISSING else float(word)
