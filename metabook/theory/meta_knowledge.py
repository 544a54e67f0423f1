"""Meta-knowledge: tasks as vectors, and what to do with the vectors: compare, select, fuse, propagate.

*Fisher embedding.*  A. Achille, M. Lam, R. Tewari, A. Ravichandran, S. Maji, C. Fowlkes, S. Soatto, P. Perona,
"Task2Vec: Task Embedding for Meta-Learning", ICCV 2019.  A fixed probe network, with a head trained on the task, has

    F_i = E_x E_{y ~ p_w(y|x)} (d log p_w(y|x) / d w_i)^2

for each weight w_i of the probe: the label is drawn from the *model*.  Averaged over the weights of a unit or filter
it is a vector of fixed length, whatever the classes of the task.  Two embeddings a, b are compared by the cosine of
a / (a + b) and b / (a + b), which frees them from the very different scales of their entries.

*Transfer* of a linear head starts from the source's weights w_s: minimise ||Xw - y||^2 + strength ||w - w_s||^2, the
posterior mean under w ~ N(w_s, spread^2 I) with strength = noise^2 / spread^2.  The *evidence* of a source is the
density that this prior gives to the target's own examples.

*Propagation.*  T. Evgeniou, C. Micchelli, M. Pontil, "Learning Multiple Tasks with Kernel Methods", JMLR 6 (2005).
Tasks are the nodes of a graph with weights A_st, and their heads minimise

    sum_t ||X_t w_t - y_t||^2 + ridge sum_t ||w_t||^2 + gamma sum_{s<t} A_st ||w_s - w_t||^2,

    (X_t'X_t + ridge I) w_t + gamma sum_s L_ts w_s = X_t'y_t    with the Laplacian L = diag(A 1) - A.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap


def fisher_diagonal(
    network: nn.Module, x: Tensor, y: Tensor | None = None, parameters: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information of a classifier's parameters.

    Args:
        network: maps `(n, *features)` to logits `(n, classes)`, each example on its own.
        x: `(n, *features)`, over which the mean is taken.
        y: None for the expectation over the model's own labels, the Fisher information.  With int64 `(n,)` the given
            labels take its place: the *empirical* Fisher, which is something else.
        parameters: by name, those wanted; all of the network by default.

    Returns:
        By name, a tensor of the shape of the parameter.
    """
    everything = {name: p.detach() for name, p in network.named_parameters()}
    wanted = everything if parameters is None else {name: p.detach() for name, p in parameters.items()}

    def logits(weights: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(network, {**everything, **weights}, (one[None],))[0]

    slopes = vmap(jacrev(logits), (None, 0))(wanted, x)  # by name (n, classes, *shape)
    with torch.no_grad():
        p = network(x).softmax(-1)  # (n, classes)
    label = p if y is None else F.one_hot(y, p.shape[1]).to(p)

    def expected(slope: Tensor) -> Tensor:
        mean = torch.einsum("nc,nc...->n...", p, slope)
        return torch.einsum("nc,nc...->n...", label, (slope - mean[:, None]).square()).mean(0)

    return {name: expected(slope) for name, slope in slopes.items()}


def logistic_head(z: Tensor, y: Tensor, classes: int, penalty: float = 1.0, steps: int = 12) -> Tensor:
    """Weights of multinomial logistic regression: the minimum of `mean cross-entropy + penalty / 2 * ||W||^2`.

    Newton's method from zero.  The loss is a mean, so that one penalty treats small and large tasks alike.

    Args:
        z: `(n, d)`; add a column of ones for an offset.
        y: int64 `(n,)` in 0..classes-1.
        classes: number of classes.
        penalty: positive; without it separable classes have no optimum.
        steps: of Newton's method.

    Returns:
        `(classes, d)`.
    """
    _check_positive(penalty=penalty)
    n, d = z.shape
    target, weights = F.one_hot(y, classes).to(z), z.new_zeros(classes, d)
    identity = penalty * torch.eye(classes * d, dtype=z.dtype, device=z.device)
    for _ in range(steps):
        p = (z @ weights.T).softmax(-1)
        gradient = (p - target).T @ z / n + penalty * weights
        curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None]  # (n, classes, classes)
        hessian = torch.einsum("nab,ni,nj->aibj", curvature, z, z).reshape(classes * d, -1) / n
        weights = weights - torch.linalg.solve(hessian + identity, gradient.flatten()).view(classes, d)
    return weights


def fisher_embedding(probe: nn.Module, x: Tensor, y: Tensor, classes: int, penalty: float = 1.0) -> Tensor:
    """A task as a vector: train a head on the frozen probe, take the Fisher information of the probe's weights.

    Args:
        probe: maps `(n, *features)` to `(n, d)`, each example on its own; it is not changed.
        x: `(n, *features)`.
        y: int64 `(n,)` in 0..classes-1.
        classes: of the task; the length of the embedding does not depend on it.
        penalty: of the head, see `logistic_head`.

    Returns:
        `(units,)`: for every unit or filter of every layer, the mean over its incoming weights.

    Raises:
        ValueError: fewer than two classes, labels outside of them, or a probe without weights.
    """
    if classes < 2 or y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, two classes or more; got {int(y.min())}..{int(y.max())}"
        )
    with torch.no_grad():
        z = F.pad(probe(x), (0, 1), value=1.0)
        weights = logistic_head(z.double(), y, classes, penalty).to(z)
        head = nn.utils.skip_init(nn.Linear, z.shape[1] - 1, classes, device=z.device, dtype=z.dtype)
        head.weight.copy_(weights[:, :-1])
        head.bias.copy_(weights[:, -1])
    network = nn.Sequential(probe, head)
    wanted = {name: p for name, p in network.named_parameters() if name.startswith("0.") and p.ndim > 1}
    if not wanted:
        raise ValueError("the probe has no weights of two dimensions or more to take the Fisher information of")
    return torch.cat([f.flatten(1).mean(1) for f in fisher_diagonal(network, x, parameters=wanted).values()])


def fisher_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of a / (a + b) and b / (a + b), for every pair: `(m, units)`, `(n, units)` -> `(m, n)`, in 0..1."""
    total = (a[:, None] + b).clamp(min=torch.finfo(a.dtype).tiny)
    return F.cosine_similarity(a[:, None] / total, b / total, dim=-1)


def wasserstein(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of two Gaussians, the leading dimensions broadcast.

    ||m_a - m_b||^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2).
    """
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt()[..., None, :] @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum(-1)
    trace = cov_a.diagonal(dim1=-2, dim2=-1).sum(-1) + cov_b.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (mean_a - mean_b).square().sum(-1) + trace - 2 * cross


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's: the correlation of the ranks along the last dimension.  Ties are ranked in order of appearance."""
    ranks = [v.argsort(-1).argsort(-1).double() for v in (a, b)]
    a, b = (r - r.mean(-1, keepdim=True) for r in ranks)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def transfer(x: Tensor, y: Tensor, starts: Tensor, strength: float) -> Tensor:
    """Adapt every start to a task: the minima of `||x w - y||^2 + strength * ||w - start||^2`.

    Args:
        x: `(..., n, d)`, of one or many tasks.
        y: `(..., n)`.
        starts: `(sources, d)` for all tasks alike, or `(..., sources, d)`.  Zero is learning from scratch.
        strength: positive.

    Returns:
        `(..., sources, d)`.
    """
    _check_positive(strength=strength)
    gram = x.mT @ x + strength * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    residual = y[..., None] - x @ starts.mT  # (..., n, sources)
    return starts + torch.linalg.solve(gram, x.mT @ residual).mT


def log_evidence(x: Tensor, y: Tensor, starts: Tensor, noise: float, spread: float) -> Tensor:
    """Log density of a task's values under each source: `y ~ N(x w_s, noise^2 I + spread^2 x x')`.

    Args:
        x: `(..., n, d)`.
        y: `(..., n)`.
        starts: `(sources, d)`.
        noise: standard deviation of the values.
        spread: standard deviation of a task's weights around its source's.

    Returns:
        `(..., sources)`.
    """
    _check_positive(noise=noise, spread=spread)
    n = x.shape[-2]
    covariance = noise**2 * torch.eye(n, dtype=x.dtype, device=x.device) + spread**2 * x @ x.mT
    factor = torch.linalg.cholesky(covariance)
    residual = y[..., None] - x @ starts.mT  # (..., n, sources)
    white = torch.linalg.solve_triangular(factor, residual, upper=False)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
    return -0.5 * (white.square().sum(-2) + log_det + n * math.log(2 * math.pi))


def fuse(score: Tensor, starts: Tensor, temperature: float = 1.0) -> Tensor:
    """One start for each task, the average of all with the weights `softmax(score / temperature)`.

    Args:
        score: `(..., sources)`: similarities, or log evidence (at temperature 1 the posterior of a uniform prior).
        starts: `(sources, d)`.
        temperature: near 0 the best source alone, large the plain average.

    Returns:
        `(..., d)`.
    """
    _check_positive(temperature=temperature)
    return (score / temperature).softmax(-1) @ starts


def task_graph(similarity: Tensor, neighbours: int) -> Tensor:
    """Join each task to its most similar ones; an edge of weight 1 stands where either end wants it.

    Args:
        similarity: `(tasks, tasks)`; its diagonal is not used.
        neighbours: from 1 to tasks - 1.

    Returns:
        Adjacency `(tasks, tasks)`, symmetric, zero on the diagonal.
    """
    tasks = len(similarity)
    if similarity.shape != (tasks, tasks) or not 1 <= neighbours < tasks:
        met = f"got {tuple(similarity.shape)} and {neighbours}"
        raise ValueError(f"a graph needs a square similarity and 1 <= neighbours < tasks, {met}")
    itself = torch.eye(tasks, dtype=torch.bool, device=similarity.device)
    nearest = similarity.masked_fill(itself, -torch.inf).topk(neighbours, -1).indices
    wants = torch.zeros_like(similarity).scatter(-1, nearest, 1.0)
    return torch.maximum(wants, wants.T)


def laplacian(adjacency: Tensor) -> Tensor:
    """`diag(A 1) - A`, which has `sum_{s<t} A_st ||w_s - w_t||^2 = trace(W' L W)`.

    Raises:
        ValueError: weights that are negative or not symmetric, or a loop.
    """
    if not torch.equal(adjacency, adjacency.mT) or (adjacency < 0).any() or adjacency.diagonal().any():
        raise ValueError("the graph needs symmetric weights of zero or more, and zero on the diagonal")
    return torch.diag(adjacency.sum(1)) - adjacency


def propagate(x: Tensor, y: Tensor, adjacency: Tensor, gamma: float, ridge: float) -> Tensor:
    """The heads of all tasks at once, pulled together along the edges of a graph: one linear system.

    Args:
        x: `(tasks, n, d)`.
        y: `(tasks, n)`.
        adjacency: `(tasks, tasks)`, see `laplacian`.
        gamma: pull of an edge of weight 1; 0 learns every task alone.
        ridge: pull of every head towards zero, positive.

    Returns:
        `(tasks, d)`.
    """
    _check_positive(ridge=ridge)
    tasks, _, d = x.shape
    identity = torch.eye(d, dtype=x.dtype, device=x.device)
    system = torch.block_diag(*(x.mT @ x + ridge * identity))
    system = system + gamma * torch.kron(laplacian(adjacency).contiguous(), identity)
    right = (x.mT @ y[..., None]).flatten()[:, None]
    return torch.cholesky_solve(right, torch.linalg.cholesky(system)).view(tasks, d)


def propagate_by_messages(
    x: Tensor, y: Tensor, adjacency: Tensor, gamma: float, ridge: float, sweeps: int, start: Tensor | None = None
) -> Tensor:
    """The same heads by messages: in a sweep every task refits its examples, pulled to what its neighbours last had.

    These are the sweeps of block Jacobi, which converge to `propagate` from any start, by a factor of at most
    `gamma * degree / (gamma * degree + ridge)` each.  No system is larger than `(d, d)`.

    Args:
        x, y, adjacency, gamma, ridge: as in `propagate`.
        sweeps: how many.
        start: `(tasks, d)`; by default what each task learns alone.

    Returns:
        `(tasks, d)`.
    """
    _check_positive(ridge=ridge)
    laplacian(adjacency)  # for its checks
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    gram, evidence = x.mT @ x + ridge * identity, (x.mT @ y[..., None])[..., 0]
    weights = torch.linalg.solve(gram, evidence) if start is None else start
    refit = torch.linalg.inv(gram + (gamma * adjacency.sum(1))[:, None, None] * identity)
    for _ in range(sweeps):
        weights = (refit @ (evidence + gamma * adjacency @ weights)[..., None])[..., 0]
    return weights


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
