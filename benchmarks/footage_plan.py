"""What 100,000 hours of footage cost on 64 GPUs, on paper: every number of the plan in docs/footage.md.

    python benchmarks/footage_plan.py

Nothing here is measured but what the constants say. Operations are of matrix products, a
multiplication and an addition counting two; the shapes are SmolVLM-256M's and CLIP ViT-B/32's.
"""

from typing import NamedTuple

HOURS, GPUS, GPUS_PER_NODE = 100_000, 64, 8
SCENES = {"1 per second": HOURS * 3600, "1 per 5 s": HOURS * 720}
K, C = 8, 40  # completions, tokens of each

# Shapes: 30 layers of 576 with 3 key heads of 64 and an MLP of 1,536; a tower of 12 layers of 768 on 1,024 patches.
LAYERS, WIDTH, KEYS = 30, 576, 192
TEXT = LAYERS * (2 * WIDTH**2 + 2 * WIDTH * KEYS + 3 * WIDTH * 1536)  # 106.2 M weights in products
HEAD = WIDTH * 49_280
TOWER = 12 * (4 * 768**2 + 2 * 768 * 3072)
TILE = 2 * (TOWER + 768 * 768) * 1024 + 12 * 4 * 1024**2 * 768 + 2 * 12_288 * WIDTH * 64
CLIP_IMAGE = 2 * 12 * (4 * 768**2 + 2 * 768 * 3072) * 50 + 12 * 4 * 50**2 * 768 + 2 * 49 * 3072 * 768
CLIP_TEXT = 2 * 12 * (4 * 512**2 + 2 * 512 * 2048) * 77 + 12 * 4 * 77**2 * 512

# Assumptions, of an H100.
FLOPS = 989e12 * 0.07  # dense bf16; benchmarks/gpu.json has 2.5 to 7.5 % of it for steps of 64 and 256 completions
BANDWIDTH = 3.35e12 * 0.6  # bytes/s
STEP_EAGER_S, STEP_GRAPH_S = 38e-3, 4.8e-3  # a token of 256 rows in benchmarks/gpu.json: by Python, as a CUDA graph

# Measured on one core of the machine of docs/performance.md, 13 pictures of BDD100K at 1280x720.
BYTES = {"as they are": 62e3, "at 512 px": 35e3}
ASSUMED_BYTES = 100e3  # a frame at 1280x720; 80 to 120 kB are usual
READ_DECODE_S = 9.3e-3  # CPU seconds to read and decode a scene of two frames
CHECK_S = 7e-3  # CPU seconds to check a frame and put it into a shard
VIDEO_SPEED = 15  # assumed: one core decodes H.264 at 720p, 30 fps, 15 times as fast as it plays


class Setting(NamedTuple):
    """How much of a scene the policy sees."""

    name: str
    tiles: int
    prompt: int


SETTINGS = (Setting("2 frames, 1 tile each", 2, 153), Setting("5 tiles", 5, 353), Setting("17 tiles", 17, 1147))


class Cost(NamedTuple):
    """Operations of one scene."""

    tower: float
    prefill: float
    decode: float
    gradient: float
    reference: float
    reward: float

    @property
    def total_s(self) -> float:
        """Seconds of one GPU at the assumed share of its peak."""
        return sum(self) / FLOPS


def cost(setting: Setting) -> Cost:
    """Operations of a scene: frozen tower once, prompt and completions packed, text model trained whole."""
    prompt = setting.prompt

    def attention(pairs: float) -> float:
        return 4 * pairs * WIDTH * LAYERS

    prefill = 2 * TEXT * prompt + attention(prompt**2 / 2)
    completions = 2 * (TEXT + HEAD) * K * C + attention(K * (prompt * C + C**2 / 2))
    forward = prefill + completions
    return Cost(setting.tiles * TILE, prefill, completions, 3 * forward, forward, CLIP_IMAGE + K * CLIP_TEXT)


def decode_s(setting: Setting, batch_size: int, step_s: float) -> float:
    """Seconds per scene that sampling takes on one GPU: the slower of launching and of reading weights and keys."""
    weights = 2 * (TEXT + HEAD)
    keys = 2 * 2 * LAYERS * KEYS * (setting.prompt + K * C / 2)  # bf16; the prompt's once for all completions
    return C * max(step_s, (weights + batch_size * keys) / BANDWIDTH) / batch_size


def rows(columns: tuple[str, ...], cells: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def operations() -> str:
    names = ("setting", "prompt", *Cost._fields, "sum, TFLOP", "ms at 7 %")
    return rows(
        names,
        [
            (s.name, f"{s.prompt:,}", *(f"{x / 1e12:.2f}" for x in c), f"{sum(c) / 1e12:.2f}", f"{1e3 * c.total_s:.1f}")
            for s in SETTINGS
            for c in [cost(s)]
        ],
    )


def speeds() -> str:
    cells = []
    for setting in SETTINGS:
        for batch, step_s, how in (
            (8, STEP_EAGER_S, "Python"),
            (8, STEP_GRAPH_S, "graph"),
            (128, STEP_GRAPH_S, "graph"),
        ):
            sampling, other = decode_s(setting, batch, step_s), cost(setting).total_s
            rate = GPUS / (sampling + other)
            days = [f"{count / rate / 86400:.1f}" for count in SCENES.values()]
            cells.append(
                (setting.name, f"{batch}, {how}", f"{1e3 * sampling:.1f}", f"{1e3 * other:.1f}", f"{rate:,.0f}", *days)
            )
    names = ("setting", "scenes per GPU, sampling", "sampling, ms", "rest, ms", "scenes/s on 64")
    return rows((*names, *(f"days, {name}" for name in SCENES)), cells)


def bytes_moved() -> str:
    cells = []
    for name, size in (("100 kB a frame (assumed)", ASSUMED_BYTES), *BYTES.items()):
        stored = [SCENES["1 per second"] * size, 2 * SCENES["1 per 5 s"] * size]
        read = [2 * count * size for count in SCENES.values()]
        cells.append((name, *(f"{x / 1e12:.1f}" for pair in zip(stored, read, strict=True) for x in pair)))
    columns = [f"{what}, {name}, TB" for name in SCENES for what in ("stored", "read")]
    return rows(("frames", *columns), cells)


def rates() -> str:
    """Of the second setting at 128 scenes per GPU, sampled by Python and as a graph."""
    cells = []
    for how, step_s in (("Python", STEP_EAGER_S), ("graph", STEP_GRAPH_S)):
        rate = 1 / (decode_s(SETTINGS[1], 128, step_s) + cost(SETTINGS[1]).total_s)
        reading = 2 * ASSUMED_BYTES * rate
        cells.append(
            (how, f"{rate:.0f}", f"{reading / 1e6:.0f}", f"{reading * GPUS_PER_NODE / 1e6:.0f}",
             f"{reading * GPUS / 1e9:.1f}", f"{rate * GPUS:,.0f}", f"{rate * READ_DECODE_S:.1f}",
             f"{2 * 1280 * 720 * 3 * rate / 1e6:.0f}")
        )  # fmt: skip
    return rows(
        ("sampling", "scenes/s per GPU", "MB/s read per GPU", "per node of 8", "GB/s on 64", "reads/s on 64",
         "cores that decode, per GPU", "MB/s of pixels to a GPU"),
        cells,
    )  # fmt: skip


def preparing() -> str:
    frames = SCENES["1 per second"]
    return rows(
        ("making the shards", "core hours", "hours on 256 cores"),
        [
            (what, f"{hours:,.0f}", f"{hours / 256:.1f}")
            for what, hours in (
                ("decoding H.264 video (assumed: 15 times as fast as it plays)", HOURS / VIDEO_SPEED),
                ("checking and copying JPEG frames at 1 per second (measured: 7 ms each)", frames * CHECK_S / 3600),
            )
        ],
    )


TABLES = (operations, speeds, bytes_moved, rates, preparing)

if __name__ == "__main__":
    print("\n".join(table() for table in TABLES))
