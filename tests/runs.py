"""A small run with everything that has a state, and how to compare, interrupt and look at what it leaves."""

import os
import signal

import torch
from torch import Tensor, nn

from metabook import MAML, meta_train
from metabook.tasks import Sinusoids


def learner(width=16):
    """Its dropout draws from torch's global generator."""
    torch.manual_seed(0)
    return MAML(nn.Sequential(nn.Linear(1, width), nn.Dropout(0.3), nn.Tanh(), nn.Linear(width, 1)), inner_lr=0.01)


def train(path=None, steps=8, *, model=None, tasks=None, sgd=False, lr=0.01, gamma=0.5, **options):
    """A run with everything that has a state."""
    model = learner() if model is None else model
    make = {True: lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9), False: lambda p: torch.optim.Adam(p, lr=lr)}[sgd]
    optimizer = make(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma)
    options = dict(validation=Sinusoids(), validate_every=3, validation_tasks=4, clip_norm=1.0) | options
    history = meta_train(
        model, tasks or Sinusoids(), steps=steps, optimizer=optimizer, scheduler=scheduler, checkpoint=path, **options
    )
    return model, optimizer, history


def same(a, b):
    """Equal to the last bit, all the way down; the speed of the steps apart."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "tasks_per_second")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def stop_at(when):
    def on_step(step, _):
        if step == when:
            raise RuntimeError("the lights went out")

    return on_step


def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def leftovers(folder):
    return [file for file in folder.iterdir() if file.name.endswith(".part")]
