# Writes models.json: loss, gradients and three clipped AdamW steps of two tiny GPTs written in plain torch, fp32.

import torch
import torch.nn.functional as F

from figures import numbers, pack, write

V, T, B, C, H, HK, L, M = 32, 8, 2, 16, 2, 1, 2, 24
rate, decay, betas, eps, limit = 0.01, 0.1, (0.9, 0.95), 1e-8, 1.0


def shapes(llama):
    names = {"wte.weight": (V, C)}
    if not llama:
        names["wpe.weight"] = (T, C)
    norm = lambda at: {f"{at}.gamma": (C,)} if llama else {f"{at}.gamma": (C,), f"{at}.beta": (C,)}
    linear = lambda at, o, i: {f"{at}.weight": (o, i)} if llama else {f"{at}.weight": (o, i), f"{at}.bias": (o,)}
    for i in range(L):
        b = f"blocks.{i}"
        names |= norm(f"{b}.norm1")
        kv = C // H * HK
        for w, o in (("wq", C), ("wk", kv), ("wv", kv), ("wo", C)):
            names |= linear(f"{b}.attn.{w}", o, C)
        names |= norm(f"{b}.norm2")
        if llama:
            names |= linear(f"{b}.mlp.w1", M, C) | linear(f"{b}.mlp.w3", M, C) | linear(f"{b}.mlp.w2", C, M)
        else:
            names |= linear(f"{b}.mlp.up", M, C) | linear(f"{b}.mlp.down", C, M)
    return names | norm("norm")


def initial(names):
    """Parameter number n is numbers(shape, 300 + n); gains lie around 1."""
    return {name: numbers(shape, 300 + n, 0.2 if name.endswith("gamma") else 0.5, 1.0 if name.endswith("gamma") else 0.0)
            .requires_grad_() for n, (name, shape) in enumerate(names.items())}


def rotate(x):
    d = x.shape[-1]
    angles = torch.outer(torch.arange(T, dtype=torch.float64), 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d))
    cos, sin = angles.cos().float(), angles.sin().float()
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def forward(p, tokens, llama):
    x = p["wte.weight"][tokens]
    if not llama:
        x = x + p["wpe.weight"]

    def norm(at, y):
        return F.rms_norm(y, (C,), p[f"{at}.gamma"], 1e-5) if llama else F.layer_norm(y, (C,), p[f"{at}.gamma"], p[f"{at}.beta"], 1e-5)

    def linear(at, y):
        return F.linear(y, p[f"{at}.weight"], p.get(f"{at}.bias"))

    def heads(y, h):
        return y.view(B, T, h, C // H).transpose(1, 2)

    for i in range(L):
        b = f"blocks.{i}"
        y = norm(f"{b}.norm1", x)
        q, k, v = heads(linear(f"{b}.attn.wq", y), H), heads(linear(f"{b}.attn.wk", y), HK), heads(linear(f"{b}.attn.wv", y), HK)
        if llama:
            q, k = rotate(q), rotate(k)
        k, v = k.repeat_interleave(H // HK, 1), v.repeat_interleave(H // HK, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(f"{b}.attn.wo", y.transpose(1, 2).reshape(B, T, C))
        y = norm(f"{b}.norm2", x)
        if llama:
            y = linear(f"{b}.mlp.w2", F.silu(linear(f"{b}.mlp.w1", y)) * linear(f"{b}.mlp.w3", y))
        else:
            y = linear(f"{b}.mlp.down", F.gelu(linear(f"{b}.mlp.up", y), approximate="tanh"))
        x = x + y
    return norm("norm", x).reshape(-1, C) @ p["wte.weight"].T


def batch(step):
    """Tokens i * 5 + step * 11 + i * i div 3, modulo V; the target is the next one."""
    row = lambda r: [(i * 5 + step * 11 + r * 13 + i * i // 3) % V for i in range(T + 1)]
    rows = torch.tensor([row(r) for r in range(B)])
    return rows[:, :-1], rows[:, 1:].reshape(-1)


models = {}
for architecture in ("llama", "gpt2"):
    llama = architecture == "llama"
    names = shapes(llama)
    p = initial(names)
    optimizer = torch.optim.AdamW(
        [{"params": [t], "weight_decay": decay if t.dim() >= 2 else 0.0} for t in p.values()], lr=rate, betas=betas, eps=eps)
    losses, norms, grads, logits = [], [], None, None
    for step in range(3):
        tokens, targets = batch(step)
        optimizer.zero_grad()
        out = forward(p, tokens, llama)
        loss = F.cross_entropy(out, targets)
        loss.backward()
        if grads is None:
            grads, logits = {n: pack(t.grad) for n, t in p.items()}, pack(out)
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), limit).item())
        optimizer.step()
        losses.append(loss.item())
    models[architecture] = {
        "shapes": {n: list(s) for n, s in names.items()},
        "losses": losses, "norms": norms, "logits": logits, "grads": grads, "after": {n: pack(t) for n, t in p.items()},
    }

write("models", {
    "config": {"vocabSize": V, "sequenceLen": T, "batch": B, "nEmbd": C, "nHead": H, "nKvHead": HK, "nLayer": L, "hiddenDim": M},
    "optimizer": {"learningRate": rate, "weightDecay": decay, "clipNorm": limit},
    "models": models,
})
