"""One training step of a Llama-style model in PyTorch: forward, backward, fused AdamW; fp32. Shapes as src/models/gpt.ts has them."""

import time

started = time.perf_counter()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from serve import THREADS, arguments, serve  # noqa: E402
from torch import nn  # noqa: E402


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, self.gamma.shape, self.gamma, 1e-5)


class Block(nn.Module):
    def __init__(self, width, hidden, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        linear = lambda i, o: nn.Linear(i, o, bias=False)  # noqa: E731
        self.wqkv, self.wo = linear(width, 3 * width), linear(width, width)
        self.w13, self.w2 = linear(width, 2 * hidden), linear(hidden, width)

    def forward(self, x, cos, sin):
        b, t, c = x.shape
        q, k, v = self.wqkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v, is_causal=True)
        x = x + self.wo(y.transpose(1, 2).reshape(b, t, c))
        gate, up = self.w13(self.norm2(x)).chunk(2, -1)
        return x + self.w2(F.silu(gate) * up)


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Llama(nn.Module):
    def __init__(self, dim, hidden, layers, heads, sequence, vocab):
        super().__init__()
        self.wte = nn.Embedding(vocab, dim)
        nn.init.normal_(self.wte.weight, std=dim**-0.5)
        self.blocks = nn.ModuleList(Block(dim, hidden, heads) for _ in range(layers))
        self.norm = RmsNorm(dim)
        half = dim // heads // 2
        angle = torch.outer(torch.arange(sequence), 10000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens, targets):
        x = self.wte(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    config = arguments()
    batch = config.pop("batch", 1)
    mode = config.pop("mode", "eager")
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = Llama(**config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(config["vocab"], (batch, config["sequence"] + 1))
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    loss_of = model if mode == "eager" else torch.compile(model, dynamic=False)

    def step(repetitions):
        for _ in range(repetitions):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(x, y)
            loss.backward()
            optimizer.step()
        return loss.item()

    step(3)
    serve(f"PyTorch {torch.__version__} {mode}", step, started)


if __name__ == "__main__":
    main()
