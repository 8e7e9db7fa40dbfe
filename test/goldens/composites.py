# Writes composites.json: composites of torch in fp32 with their gradients. Run with Python, torch and numpy installed.

import torch
import torch.nn.functional as F

from figures import numbers, pack, write

cases = []


def case(name, inputs, f, ints=None):
    """inputs: name -> (shape, seed, scale, offset); f gets tensors by name; the cotangent is numbers(shape, 99)."""
    tensors = {k: numbers(*spec).requires_grad_() for k, spec in inputs.items()}
    fixed = {k: torch.tensor(v) for k, v in (ints or {}).items()}
    value = f(**tensors, **fixed)
    value.backward(numbers(tuple(value.shape), 99) if value.dim() else torch.tensor(0.75))
    cases.append({
        "name": name,
        "inputs": {k: {"shape": list(s[0]), "seed": s[1], "scale": s[2], "offset": s[3]} for k, s in inputs.items()},
        "ints": ints or {},
        "shape": list(value.shape),
        "value": pack(value),
        "grads": {k: pack(t.grad) for k, t in tensors.items()},
    })


def spec(*shape, seed, scale=1.0, offset=0.0):
    return (shape, seed, scale, offset)


case("rmsNorm", {"x": spec(2, 3, 8, seed=1), "gamma": spec(8, seed=2, scale=0.5, offset=1)},
     lambda x, gamma: F.rms_norm(x, (8,), gamma, 1e-5))
case("rmsNorm without gain", {"x": spec(5, 7, seed=3, scale=0.01)}, lambda x: F.rms_norm(x, (7,), None, 1e-5))
case("rmsNorm of large numbers", {"x": spec(2, 8, seed=4, scale=1e4)}, lambda x: F.rms_norm(x, (8,), None, 1e-5))
case("layerNorm", {"x": spec(3, 8, seed=5, offset=3)}, lambda x: F.layer_norm(x, (8,), None, None, 1e-5))
for groups in (1, 2, 6):
    case(f"groupNorm {groups}",
         {"x": spec(2, 6, 3, 2, seed=6), "gamma": spec(6, seed=7, offset=1), "beta": spec(6, seed=8)},
         lambda x, gamma, beta, groups=groups: F.group_norm(x, groups, gamma, beta, 1e-5))


def heads(t, h):
    b, n, c = t.shape
    return t.view(b, n, h, c // h).transpose(1, 2)


def grouped(q, k, v, mask=None, scale=None):
    group = q.shape[1] // k.shape[1]  # query head j reads key head j div group
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def causal(n):
    return torch.full((n, n), float("-inf")).triu(1)


qkv = lambda h, hk, tq, tk, d: {"q": spec(2, h, tq, d, seed=11, scale=2), "k": spec(2, hk, tk, d, seed=12, scale=2),
                                "v": spec(2, hk, tk, d, seed=13)}
case("attention", qkv(2, 2, 4, 4, 3), grouped)
case("attention scale", qkv(2, 2, 4, 4, 3), lambda q, k, v: grouped(q, k, v, scale=0.3))
case("attention causal", qkv(2, 2, 5, 5, 4), lambda q, k, v: grouped(q, k, v, causal(5)))
case("attention grouped 4/2", qkv(4, 2, 3, 5, 4), grouped)
case("attention grouped causal 4/2", qkv(4, 2, 4, 4, 2), lambda q, k, v: grouped(q, k, v, causal(4)))
case("attention grouped 6/1", qkv(6, 1, 2, 3, 2), grouped)


def rotate(x):
    d = x.shape[-1]
    inv = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angles = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), inv)
    cos, sin = angles.cos().float(), angles.sin().float()
    a, b = x[..., : d // 2], x[..., d // 2:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


case("rope", {"x": spec(2, 2, 6, 8, seed=14)}, rotate)
case("swiglu", {"gate": spec(3, 4, seed=15, scale=4), "up": spec(3, 4, seed=16)}, lambda gate, up: F.silu(gate) * up)


def mha(x, wq, wk, wv, wo, context=None, h=4, hk=2):
    c = x if context is None else context
    y = grouped(heads(x @ wq.T, h), heads(c @ wk.T, hk), heads(c @ wv.T, hk))
    return y.transpose(1, 2).reshape(x.shape) @ wo.T


weights = {"wq": spec(8, 8, seed=17), "wk": spec(4, 8, seed=18), "wv": spec(4, 8, seed=19), "wo": spec(8, 8, seed=20)}
case("multiHeadAttention", {"x": spec(2, 3, 8, seed=21), **weights}, mha)
case("multiHeadAttention of a context", {"x": spec(2, 3, 8, seed=21), "context": spec(2, 5, 8, seed=22), **weights}, mha)

for equation, shapes in [
    ("ij,jk->ik", [(2, 3), (3, 4)]), ("bik,bkj->bij", [(2, 2, 3), (2, 3, 2)]), ("ij->ji", [(2, 3)]),
    ("ij->", [(2, 3)]), ("ij->i", [(2, 3)]), ("i,j->ij", [(2,), (3,)]), ("i,i->", [(4,), (4,)]),
    ("bhqd,bhkd->bhqk", [(2, 2, 3, 2), (2, 2, 4, 2)]), ("ij,ij->ij", [(2, 3), (2, 3)]),
    ("ij,jk,kl->il", [(2, 3), (3, 2), (2, 4)]), ("ji,jk", [(3, 2), (3, 4)]), ("ab,cd->dbca", [(2, 3), (2, 2)]),
    ("abc,bd->acd", [(2, 3, 2), (3, 2)]), ("ijk,j->k", [(2, 3, 2), (3,)]), ("ab,bc,ac->b", [(2, 3), (3, 2), (2, 2)]),
    ("Ab,bA->A", [(2, 3), (3, 2)]), ("a,ab,b->", [(2,), (2, 3), (3,)]),
]:
    names = "xyz"[: len(shapes)]
    case(f"einsum {equation}", {n: spec(*s, seed=30 + i) for i, (n, s) in enumerate(zip(names, shapes))},
         lambda equation=equation, **t: torch.einsum(equation, *t.values()))

classes = [0, 4, 2, 2, 1, 4]
ignoring = [0, -100, 2, 2, -100, 4]
for reduction in ("mean", "sum", "none"):
    for title, ints, weighted, ignore in [("", classes, False, None), (" weight", classes, True, None),
                                          (" ignore", ignoring, False, -100), (" weight ignore", ignoring, True, -100),
                                          (" ignore 2", classes, True, 2)]:
        extra = {} if ignore is None else {"ignore_index": ignore}
        w = numbers((5,), 41, 0.9, 1.0) if weighted else None
        case(f"crossEntropy {reduction}{title}", {"x": spec(6, 5, seed=40, scale=3)},
             lambda x, targets, w=w, extra=extra, reduction=reduction:
             F.cross_entropy(x, targets, weight=w, reduction=reduction, **extra), {"targets": ints})
        case(f"nllLoss {reduction}{title}", {"x": spec(6, 5, seed=42, scale=3)},
             lambda x, targets, w=w, extra=extra, reduction=reduction:
             F.nll_loss(x, targets, weight=w, reduction=reduction, **extra), {"targets": ints})
case("mse", {"x": spec(3, 4, seed=43), "target": spec(3, 4, seed=44)}, lambda x, target: F.mse_loss(x, target))
case("gelu tanh", {"x": spec(3, 7, seed=45, scale=4)}, lambda x: F.gelu(x, approximate="tanh"))

write("composites", {"cases": cases})
