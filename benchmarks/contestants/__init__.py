"""Who competes.  Each module has one function per method of a workload it can do.

    method(work, network) -> accumulate(episode)      adds the meta-gradient to the `.grad` of the network
    evaluation(work, network) -> scores(episode)      loss of each task after adaptation, `(tasks,)`
    sampling(work) -> draw()                          one batch of episodes

`network` comes with its weights: `plain_network`, or what the module's own `network(work)` returns.  JAX has no such
network and brings its own `start`; see `benchmarks.steps`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec

LEARN2LEARN = """pip install "setuptools<81" wheel "cython<3" tqdm requests scipy pillow gym==0.26.2
pip install --no-deps torchvision==0.16.2
CYTHON_FORCE_REGEN=1 pip install --use-pep517 --no-deps --no-build-isolation \\
    --config-settings=--global-option=build_ext learn2learn==0.2.0"""


@dataclass(frozen=True)
class Contestant:
    """A column of the table.

    name: how the table calls it.
    module: in this package.
    requires: what must be importable.
    install: the pip line for it.
    options: keyword arguments of the module's functions.
    reuse_memory: whether its process calls `metabook.memory.reuse_memory()` first.
    device: "cpu" or "cuda" for one that makes sense only there.
    """

    name: str
    module: str
    requires: str = "torch"
    install: str = ""
    options: dict = field(default_factory=dict)
    reuse_memory: bool = False
    device: str | None = None

    @property
    def installed(self) -> bool:
        """Whether its package can be found."""
        return find_spec(self.requires) is not None

    @property
    def ours(self) -> bool:
        """Whether it is metabook."""
        return self.module == "metabook"


CONTESTANTS = [
    Contestant("loop", "loop"),
    Contestant("loop + reuse_memory", "loop", reuse_memory=True, device="cpu"),
    Contestant("higher", "higher", "higher", "pip install higher"),
    Contestant("torchopt", "torchopt", "torchopt", "pip install torchopt"),
    Contestant("learn2learn", "learn2learn", "learn2learn", LEARN2LEARN),
    Contestant("jax", "jax", "jax", "pip install jax"),
    Contestant("metabook", "metabook"),
    Contestant("metabook + reuse_memory", "metabook", reuse_memory=True, device="cpu"),
    Contestant("metabook traced", "metabook", options={"mode": "traced"}, reuse_memory=True),
    Contestant("metabook compiled", "metabook", options={"mode": "compiled"}, reuse_memory=True),
    Contestant("traced, tf32", "metabook", options={"mode": "traced", "precision": "tf32"}, device="cuda"),
    Contestant("traced, bfloat16", "metabook", options={"mode": "traced", "precision": "bfloat16"}, device="cuda"),
    Contestant("compiled, tf32", "metabook", options={"mode": "compiled", "precision": "tf32"}, device="cuda"),
]
REFERENCE = CONTESTANTS[0]  # whom all others must agree with
