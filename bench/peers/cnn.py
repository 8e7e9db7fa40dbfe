"""One training step of a small convolutional classifier in PyTorch: 3 x 3 convolutions, group norm, relu, pooling; fused AdamW; fp32."""

import time

started = time.perf_counter()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from serve import THREADS, arguments, fastest, serve  # noqa: E402
from torch import nn  # noqa: E402

FORMATS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


class Cnn(nn.Module):
    def __init__(self, image, channels, classes, groups=8):
        super().__init__()
        pairs = zip([image[0], *channels], channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, count) for count in channels)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, x):
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            x = F.max_pool2d(x, 2) if i > 0 else x
            x = F.relu(norm(convolution(x)))
        return self.head(x.mean((2, 3)))


def main():
    config = arguments()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    mode = config.get("mode", "eager")
    batch, classes = config["batch"], config["classes"]

    def prepared(layout):
        """The step, model and images in that order of memory."""
        model = Cnn(config["image"], config["channels"], classes).to(memory_format=layout)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        logits_of = model if mode == "eager" else torch.compile(model, dynamic=False)
        x = torch.randn(batch, *config["image"]).to(memory_format=layout)
        y = torch.arange(batch) % classes

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(logits_of(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return step

    works = {name: prepared(layout) for name, layout in FORMATS.items()}
    faster = fastest(works, 8)

    def step(repetitions):
        for _ in range(repetitions):
            loss = works[faster]()
        return loss.item()

    step(5)
    serve(f"PyTorch {torch.__version__} {mode}, {faster}", step, started)


if __name__ == "__main__":
    main()
