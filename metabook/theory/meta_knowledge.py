"""Knowledge about tasks: tasks as vectors, their similarity, and what it is good for: fusion and propagation.

*Fisher embeddings.*  A. Achille, M. Lam, R. Tewari, A. Ravichandran, S. Maji, C. Fowlkes, S. Soatto, P. Perona,
"Task2Vec: Task Embedding for Meta-Learning", ICCV 2019.  A probe network p(y | x) with weights theta looks at the
inputs of a task; the embedding is the diagonal of its Fisher information,

    F_j = E over x, and over y drawn from p(y | x), of  (d log p(y | x) / d theta_j)^2,

and two embeddings are compared after each weight is scaled by what both have there,

    distance = 1 - cosine( F_a / (F_a + F_b),  F_b / (F_a + F_b) ).

*Propagation.*  T. Evgeniou, C. A. Micchelli, M. Pontil, "Learning Multiple Tasks with Kernel Methods", JMLR 6, 2005:
one linear model for each task, and a graph whose edges a_st pull the models of neighbours together,

    sum over t of  mean (y_t - X_t w_t)^2 + ridge ||w_t||^2   +   coupling / 2 * sum over s, t of  a_st ||w_s - w_t||^2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap


def softmax_fisher(x: Tensor, weight: Tensor) -> Tensor:
    """Diagonal Fisher information of softmax regression, in closed form: mean over x of p_k (1 - p_k) x_j^2.

    Args:
        x: `(n, features)`.
        weight: `(classes, features)`, logits are `x @ weight.T`.

    Returns:
        `(classes, features)`.
    """
    p = (x @ weight.T).softmax(-1)  # (n, classes)
    return (p * (1 - p)).T @ x.square() / len(x)


def fisher_embedding(probe: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Diagonal Fisher information of a classifier at the inputs of a task, all its weights in one vector.

    Args:
        probe: `(n, *features) -> (n, classes)` logits, the same for all tasks.
        x: `(n, *features)`.
        y: int64 `(n,)`.  By default labels are averaged over as the probe believes them, which is the Fisher
            information.  With the labels of the task it is what is called the *empirical* Fisher, another quantity.

    Returns:
        `(parameters,)`.
    """
    weights = {name: p.detach() for name, p in probe.named_parameters()}

    def log_p(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(probe, weights, (x[None],))[0].log_softmax(-1)

    def of_one(x: Tensor, share: Tensor) -> Tensor:
        slopes = jacrev(log_p)(weights, x)  # (classes, *shape) for each weight
        squares = torch.cat([slope.flatten(1) for slope in slopes.values()], dim=1).square()
        return share @ squares

    with torch.no_grad():
        logits = probe(x)
    shares = logits.softmax(-1) if y is None else nn.functional.one_hot(y, logits.shape[-1]).to(logits)
    return vmap(of_one)(x, shares).mean(0)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of two Fisher embeddings `(..., d)`, each weight scaled by the sum of both; 1 for equal ones.

    Weights on which neither depends are left out.
    """
    total = a + b
    scaled = [torch.where(total > 0, part / total.clamp(min=torch.finfo(total.dtype).tiny), 0) for part in (a, b)]
    return torch.cosine_similarity(*scaled, dim=-1)


def fuse(weights: Tensor, similarities: Tensor, temperature: float) -> Tensor:
    """A mean of the models of several tasks, weighted by the softmax of their similarities.

    Args:
        weights: `(tasks, *shape)`.
        similarities: `(..., tasks)`.
        temperature: the most similar task alone as it goes to 0, all alike as it grows.

    Returns:
        `(..., *shape)`.

    Raises:
        ValueError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return torch.tensordot((similarities / temperature).softmax(-1), weights, dims=1)


def laplacian(adjacency: Tensor) -> Tensor:
    """Degrees on the diagonal, minus the edges: `(tasks, tasks)`.

    Raises:
        ValueError: the edges are not symmetric, or some are negative.
    """
    if adjacency.ndim != 2 or not torch.equal(adjacency, adjacency.T) or adjacency.min() < 0:
        raise ValueError("edges must be a symmetric matrix (tasks, tasks) without negative entries")
    edges = adjacency - adjacency.diagonal().diag()
    return edges.sum(1).diag() - edges


def graph_ridge(x: Tensor, y: Tensor, adjacency: Tensor, coupling: float, ridge: float) -> Tensor:
    """The models of all tasks that minimise the objective of the module's head: one linear system.

    Args:
        x: `(tasks, n, d)`.
        y: `(tasks, n, outputs)`.
        adjacency: symmetric `(tasks, tasks)`.
        coupling: strength of the edges, 0 or more.
        ridge: strength of the penalty, positive.

    Returns:
        `(tasks, d, outputs)`.

    Raises:
        ValueError: strengths out of range, or edges that make no graph.
    """
    _check(coupling, ridge)
    tasks, n, d = x.shape
    own = torch.block_diag(*(x.mT @ x / n))
    shared = torch.kron(laplacian(adjacency).to(x), torch.eye(d, dtype=x.dtype, device=x.device))
    penalty = ridge * torch.eye(tasks * d, dtype=x.dtype, device=x.device)
    right = (x.mT @ y / n).flatten(0, 1)
    return torch.linalg.solve(own + coupling * shared + penalty, right).unflatten(0, (tasks, d))


def propagate(x: Tensor, y: Tensor, adjacency: Tensor, coupling: float, ridge: float, rounds: int) -> Tensor:
    """The same models by messages: in each round every task is solved anew, pulled to its neighbours' last models.

    Arguments as for `graph_ridge`; it converges to its answer.
    """
    _check(coupling, ridge)
    n, d = x.shape[1:]
    edges = -laplacian(adjacency).to(x)
    edges = edges - edges.diagonal().diag()
    strength = (ridge + coupling * edges.sum(1))[:, None, None]
    systems = x.mT @ x / n + strength * torch.eye(d, dtype=x.dtype, device=x.device)
    own = x.mT @ y / n
    w = torch.zeros_like(own)
    for _ in range(rounds):
        w = torch.linalg.solve(systems, own + coupling * torch.tensordot(edges, w, dims=1))
    return w


def _check(coupling: float, ridge: float) -> None:
    if coupling < 0 or not ridge > 0:
        raise ValueError(f"coupling must be 0 or more and ridge positive, got {coupling} and {ridge}")
