"""Where examples come from: Glyphs (always at hand), Omniglot, MNIST and the digits of scikit-learn.

`python -m metabook.data` lists what exists and where it lies.
"""

from metabook.data.dataset import Dataset
from metabook.data.digits import load_digits
from metabook.data.glyphs import load_glyphs
from metabook.data.mnist import load_mnist
from metabook.data.omniglot import load_omniglot, omniglot_oneshot_runs

__all__ = ["Dataset", "load_digits", "load_glyphs", "load_mnist", "load_omniglot", "omniglot_oneshot_runs"]
