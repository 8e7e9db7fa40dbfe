# Writes optimizers.json: twenty steps of torch.optim in fp32, and torch's global norm clipping.

import torch

from figures import numbers, pack, write

steps = 20


def run(make):
    """Parameters w [3, 4] and b [4]; the gradient of step t is numbers(shape, 100 + t) and numbers(shape, 200 + t)."""
    w, b = numbers((3, 4), 1), numbers((4,), 2)
    optimizer = make(w, b)
    base = [group["lr"] for group in optimizer.param_groups]
    for t in range(steps):
        w.grad, b.grad = numbers((3, 4), 100 + t), numbers((4,), 200 + t, 0.01)
        for group, lr in zip(optimizer.param_groups, base):
            group["lr"] = lr * (1 - t / 40)
        optimizer.step()
    return {"w": pack(w), "b": pack(b)}


def split(cls, lr, decay, **options):
    """Decay on matrices only, as groupOf has it."""
    return lambda w, b: cls([{"params": [w], "weight_decay": decay}, {"params": [b], "weight_decay": 0}], lr=lr, **options)


cases = {
    "sgd": run(split(torch.optim.SGD, 0.1, 0)),
    "sgd decay": run(split(torch.optim.SGD, 0.1, 0.05)),
    "sgd momentum": run(split(torch.optim.SGD, 0.1, 0, momentum=0.9)),
    "sgd momentum decay": run(split(torch.optim.SGD, 0.1, 0.05, momentum=0.9)),
    "sgd nesterov": run(split(torch.optim.SGD, 0.1, 0, momentum=0.8, nesterov=True)),
    "sgd nesterov decay": run(split(torch.optim.SGD, 0.1, 0.05, momentum=0.8, nesterov=True)),
    "adam": run(split(torch.optim.Adam, 0.01, 0)),
    "adam decay": run(split(torch.optim.Adam, 0.01, 0.1, betas=(0.8, 0.99), eps=1e-6)),
    "adamw": run(split(torch.optim.AdamW, 0.01, 0.1, betas=(0.9, 0.95))),
    "adamw large epsilon": run(split(torch.optim.AdamW, 0.01, 0, betas=(0.9, 0.95), eps=0.1)),
    "adamw groups": run(lambda w, b: torch.optim.AdamW(
        [{"params": [w], "weight_decay": 0.0, "lr": 0.02}, {"params": [b], "weight_decay": 0.3, "lr": 0.005}],
        lr=0.01, betas=(0.9, 0.95))),
    "sgd groups": run(lambda w, b: torch.optim.SGD(
        [{"params": [w], "weight_decay": 0.0, "lr": 0.2}, {"params": [b], "weight_decay": 0.3, "lr": 0.05}],
        lr=0.1, momentum=0.9)),
}

clip = []
for scale, limit in [(1, 1), (100, 1), (0.01, 1), (1, 0.25), (3, 5)]:
    tensors = [numbers((3, 4), 61, scale), numbers((4,), 62, scale), numbers((2, 2, 2), 63, scale)]
    for t in tensors:
        t.grad = t.clone()
    norm = torch.nn.utils.clip_grad_norm_(tensors, limit)
    clip.append({"scale": scale, "limit": limit, "norm": norm.item(), "clipped": [pack(t.grad) for t in tensors]})

write("optimizers", {"steps": steps, "cases": cases, "clip": clip})
