"""What an accelerator refuses, and what it takes, tried on the test device.

    python tests/device/refusals.py FOLDER

writes ``refusals.json``: each line of code with the error that it raised, or null.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# x and i lie on the device, h and j on the host; d is the device.
REFUSED: Final = (
    "x.numpy()", "np.asarray(x)", "memoryview(x)", "x.pin_memory()",
    "x + h", "x @ h.T", "torch.cat([x, h])", "torch.cat([x, torch.tensor(1.0)[None]])",
    "torch.stack([x[0, 0], h[0, 0]])",
    "torch.where(x > 0, x, h)", "torch.lerp(x, h, 0.5)", "torch.equal(x, h)", "torch.allclose(x, h)",
    "torch.logaddexp(x, h)", "torch.isin(x, h)", "torch.einsum('ij,ij->i', x, h)", "torch.dot(x[0], h[0])",
    "x.clamp(min=h)", "x.masked_fill(h > 0, 0)", "x.masked_scatter(x > 0, h)", "x.copy_(h[:2])",
    "h[x[:, 0] > 0]", "h[i]", "x.index_select(0, j)", "x.gather(1, j[:, None])", "x.index_add(0, j, x)",
    "x.index_put_((j,), h)", "x.scatter(1, i[:, None], h)", "x.repeat_interleave(j, 0)",
    "F.linear(x, h)", "F.embedding(j, x)", "F.layer_norm(x, (4,), h[0])", "F.cross_entropy(x, j)",
    "F.conv2d(x.view(1, 1, 3, 4), h.view(1, 1, 3, 4))", "F.scaled_dot_product_attention(x[None], h[None], x[None])",
    "torch.bucketize(x, h[0])", "torch.searchsorted(h[0].sort()[0], x)", "F.one_hot(j, 4) + x",
    "torch.rand(3, device=d, generator=torch.Generator())", "torch.rand(3, generator=torch.Generator(d))",
    "torch.randperm(5, device=d, generator=torch.Generator())",
    "torch.multinomial(x.abs(), 1, generator=torch.Generator())", "x.normal_(generator=torch.Generator())",
    "x.double()", "torch.zeros(2, dtype=torch.float64, device=d)", "h.double().to(d)",
    "torch.tensor(np.ones(2), device=d)",
)  # fmt: skip
TAKEN: Final = (
    "(x + torch.tensor(1.0)).tolist() == (h + 1).tolist()", "x[torch.tensor([0, 2])].tolist() == h[[0, 2]].tolist()",
    "x[h[:, 0] > 0].tolist() == h[h[:, 0] > 0].tolist()", "x[x > 0].tolist() == h[h > 0].tolist()",
    "x.masked_fill(x > 0, 0.0).tolist() == h.masked_fill(h > 0, 0.0).tolist()",
    "int((x > 0).sum()) == int((h > 0).sum())",
    "h.to(d).cpu().equal(h)", "(2.0 * i).dtype == torch.float32",
    "torch.rand(2, generator=torch.Generator(d), device=d).is_testdevice",
    "torch.accelerator.current_accelerator().type == 'testdevice'", "same_training()", "saved_and_loaded()", "seeded()",
    "in_autocast() == torch.bfloat16",
)  # fmt: skip


def same_training() -> bool:
    """Three steps of a small network are those of the CPU, but for the order of the optimizer's sums."""
    ends = []
    for device in ("cpu", "testdevice"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2))
        data = torch.randn(3, 4).to(device)
        optimizer = torch.optim.AdamW(net.to(device).parameters())
        for _ in range(3):
            optimizer.zero_grad()
            net(data).square().mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        ends.append([p.detach().cpu() for p in net.parameters()])
    return all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(*ends, strict=True))


def saved_and_loaded() -> bool:
    written = io.BytesIO()
    torch.save({"x": torch.ones(2, device="testdevice")}, written)
    found = []
    for place in (None, "cpu"):
        written.seek(0)
        found.append(torch.load(written, map_location=place)["x"].device.type)
    return found == ["testdevice", "cpu"]


def seeded() -> bool:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(torch.rand(2, device="testdevice").tolist())
    return drawn[0] == drawn[1]


def in_autocast() -> torch.dtype:
    with torch.autocast("testdevice", dtype=torch.bfloat16):
        x = torch.ones(2, 2, device="testdevice")
        return (x @ x).dtype


def _try(line: str, names: dict[str, Any]) -> str | None:
    try:
        found = eval(line, globals(), names)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None if found is not False else "false"


def _all() -> dict[str, str | None]:
    import backend

    torch.manual_seed(1)
    tried = {}
    for line in (*REFUSED, *TAKEN):
        h, j = torch.randn(3, 4), torch.tensor([0, 1, 2])
        names = {
            "np": np,
            "F": functional,
            "x": h.to(backend.DEVICE),
            "h": h,
            "i": j.to(backend.DEVICE),
            "j": j,
            "d": backend.DEVICE,
        }
        tried[line] = _try(line, names)
    return tried


if __name__ == "__main__":
    Path(sys.argv[1], "refusals.json").write_text(json.dumps(_all()))
