"""Losses of training steps in PyTorch from given weights, tokens and targets: what scripts/cross-check.ts compares with."""

import json
import pathlib
import sys

import torch
from llama import Llama


def main():
    folder = pathlib.Path(sys.argv[1])
    plan = json.loads((folder / "plan.json").read_text())
    torch.set_num_threads(plan["threads"])
    model = Llama(**plan["model"])
    raw = (folder / "weights.bin").read_bytes()
    given = {
        name: torch.frombuffer(bytearray(raw[at : at + 4 * count]), dtype=torch.float32).view(shape)
        for name, shape, at, count in plan["weights"]
    }

    def weight(name):
        return given[f"{name}.weight"]

    with torch.no_grad():
        model.wte.weight.copy_(weight("wte"))
        model.norm.gamma.copy_(given["norm.gamma"])
        for i, block in enumerate(model.blocks):
            at = f"blocks.{i}"
            block.norm1.gamma.copy_(given[f"{at}.norm1.gamma"])
            block.norm2.gamma.copy_(given[f"{at}.norm2.gamma"])
            block.wqkv.weight.copy_(torch.cat([weight(f"{at}.attn.{name}") for name in ("wq", "wk", "wv")]))
            block.wo.weight.copy_(weight(f"{at}.attn.wo"))
            block.w13.weight.copy_(torch.cat([weight(f"{at}.mlp.{name}") for name in ("w1", "w3")]))
            block.w2.weight.copy_(weight(f"{at}.mlp.w2"))
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan["learningRate"], betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for tokens, targets in plan["batches"]:
        optimizer.zero_grad(set_to_none=True)
        loss = model(torch.tensor([tokens]), torch.tensor([targets]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(json.dumps({"torch": torch.__version__, "losses": losses}))


if __name__ == "__main__":
    main()
