"""Where examples come from: Glyphs (always at hand), Omniglot, MNIST, the tables of PMLB, the digits of scikit-learn.

Files are looked for in the folder METABOOK_DATA, then in the cache, then downloaded from their official address and
verified.  `python -m metabook.data` lists what exists and where it lies; `characters` takes Omniglot where it can be
had and Glyphs where it cannot.
"""

from metabook.data.dataset import Dataset
from metabook.data.digits import load_digits
from metabook.data.glyphs import load_glyphs
from metabook.data.local import available, characters, numerals
from metabook.data.mnist import load_mnist
from metabook.data.omniglot import load_omniglot, omniglot_oneshot_runs
from metabook.data.pmlb import load_pmlb, pmlb_index
from metabook.data.store import DataNotFound

__all__ = [
    "DataNotFound",
    "Dataset",
    "available",
    "characters",
    "load_digits",
    "load_glyphs",
    "load_mnist",
    "load_omniglot",
    "load_pmlb",
    "numerals",
    "omniglot_oneshot_runs",
    "pmlb_index",
]
