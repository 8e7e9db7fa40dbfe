"""One training step of a fully connected network in PyTorch: relu between the layers, cross-entropy, fused AdamW; fp32."""

import time

started = time.perf_counter()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from serve import THREADS, arguments, serve  # noqa: E402
from torch import nn  # noqa: E402


def main():
    config = arguments()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    widths = config["widths"]
    layers = []
    for i, (before, after) in enumerate(zip(widths, widths[1:])):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(before, after)]
    model = nn.Sequential(*layers)
    optimizer = {
        "adamw": lambda: torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True),
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=1e-2, fused=True),
    }[config["optimizer"]]()
    mode = config.get("mode", "eager")
    logits_of = model if mode == "eager" else torch.compile(model, dynamic=False)
    x = torch.randn(config["batch"], widths[0])
    y = torch.randint(widths[-1], (config["batch"],))

    def step(repetitions):
        for _ in range(repetitions):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(logits_of(x), y)
            loss.backward()
            optimizer.step()
        return loss.item()

    step(20)
    serve(f"PyTorch {torch.__version__} {mode}", step, started)


if __name__ == "__main__":
    main()
