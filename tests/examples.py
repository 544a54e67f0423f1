"""Small episodes and data sets that several tests share."""

import torch

from metabook import Episode, Set
from metabook.data.dataset import Dataset


def regression(tasks=3, shots=4, queries=5, features=2, outputs=1, dtype=torch.float64, device="cpu", seed=0):
    """Random regression episode: inputs (tasks, examples, features), values (tasks, examples, outputs)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).to(device)

    return Episode(*(Set(draw(tasks, n, features), draw(tasks, n, outputs)) for n in (shots, queries)))


def classification(tasks=3, ways=3, shots=2, queries=2, shape=(5,), dtype=torch.float64, device="cpu", seed=0):
    """Random classification episode whose classes differ in their mean."""
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(tasks, ways, 1, *shape, generator=generator, dtype=dtype)

    def draw(n):
        x = means + torch.randn(tasks, ways, n, *shape, generator=generator, dtype=dtype)
        labels = torch.arange(ways).repeat_interleave(n).expand(tasks, -1)
        return Set(x.flatten(1, 2).to(device), labels.to(device))

    return Episode(draw(shots), draw(queries))


def images(classes=12, per_class=6, groups=3, size=8, seed=0, name="random"):
    """Random images; the first pixel of each is its class, the second its number."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (classes * per_class, 1, size, size), generator=generator).to(torch.uint8)
    labels = torch.arange(classes).repeat_interleave(per_class)
    pixels[:, 0, 0, 0] = labels.to(torch.uint8)
    pixels[:, 0, 0, 1] = torch.arange(per_class).repeat(classes).to(torch.uint8)
    return Dataset(
        images=pixels,
        labels=labels,
        groups=torch.arange(classes) % groups,
        class_names=tuple(f"class {c}" for c in range(classes)),
        group_names=tuple(f"group {g}" for g in range(groups)),
        name=name,
    )


def table(rows=60, columns=4, classes=3, seed=0, device="cpu"):
    """Classes by the largest of three noisy columns, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return x.to(device), (x[:, :classes] + 0.3 * noise).argmax(-1).to(device)


def slopes(learner, episode, step):
    """Of the meta-loss along a random direction of all parameters: by finite differences and by its gradient."""
    learner.meta_loss(episode).backward()
    parameters = list(learner.parameters())
    direction = [torch.randn_like(p) for p in parameters]
    exact = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True))

    @torch.no_grad()
    def loss_at(distance):
        torch._foreach_add_(parameters, direction, alpha=distance)
        loss = learner.meta_loss(episode)
        torch._foreach_add_(parameters, direction, alpha=-distance)
        return loss

    return (loss_at(step) - loss_at(-step)) / (2 * step), exact
