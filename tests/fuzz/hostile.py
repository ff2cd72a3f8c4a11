"""Broken and malicious input, made from whole input by a seed; every case is counted."""

import copy
import functools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LIMIT_S: Final = 10.0
"""Of one case: a reader that hangs fails, one on a busy machine does not."""

CASES: Final = {
    "lastframe labels": 800,
    "gt_4a_21r labels": 800,
    "lines of scenes.jsonl": 600,
    "captions of a drawn set": 300,
    "names on disk": 60,
    "pictures": 900,
    "videos": 150,
    "ledger.json": 300,
    "answers.jsonl": 400,
    "metrics.json": 200,
    "samples.jsonl": 100,
    "model card": 100,
    "judge replies": 400,
    "judge scores": 400,
    "Retry-After headers": 200,
    "kept replies": 200,
    "answer parser": 600,
    "vision cache": 300,
    "checkpoints": 300,
    "pipeline files": 200,
    "stage.json": 100,
    "synthetic.json": 100,
    "judge prompts": 100,
    "configurations": 300,
    "rewards in configurations": 40,
    "policy folders": 60,
    "CLIP folders": 60,
}
"""Reader to its number of cases. Each runs so many on every call, the same ones."""

ran: Final[Counter[str]] = Counter()

LEAVES: Final = (
    *(None, True, False, 0, 1, -1, 2, 10**30, -(10**30), 1e308, float("nan"), float("inf"), 0.5, "", "0", "a", "none"),
    *("../a.jpg", "/etc/passwd", "a.jpg", "a/../../b", "C:\\a.jpg", "~", "..", ".", "a\0b", "\ud800", "\ufeff", "\n"),
    *(
        "x" * 300,
        "x" * 70_000,
        "\x1b[2J",
        "{}",
        "%s%n",
        "${HOME}",
        "\u202e",
        "embedded/../..",
        [],
        {},
        [[]],
        {"": None},
    ),
    *([0] * 5, [1.0] * 4, [True] * 4, [None] * 4, ["1"] * 21, [10**400] * 4, {"id": {}}, {"__class__": "os.system"}),
)
MORSELS: Final = (
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b",",
        b":",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"null",
        b"\\ud800",
        b"\0",
        b"\xff\xfe",
    ),
    *(b"9" * 5000, b"[" * 100_000, b'{"a":' * 20_000, b"\xef\xbb\xbf", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\r\n\r\n"),
    *(b"../../", b"//", b'"id": 0, "id": 0, ', b"&a [*a, *a]", b"!!python/object/apply:os.system [x]", b"\x80"),
)


def cases(reader: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Call a test with ``CASES[reader]`` different ``rng``, the same ones on every call, and see that all were run."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def one(*args: Any, **kwargs: Any) -> None:
            start_s = time.monotonic()
            test(*args, **kwargs)
            assert time.monotonic() - start_s < LIMIT_S, f"{reader}: a case took {time.monotonic() - start_s:.0f} s"
            ran[reader] += 1

        every = settings(
            max_examples=CASES[reader],
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=HealthCheck,
        )(given(rng=st.randoms(note_method_calls=False, use_true_random=True))(one))

        @functools.wraps(every)
        def counted(*args: Any, **kwargs: Any) -> None:
            before = ran[reader]
            every(*args, **kwargs)
            assert ran[reader] - before >= CASES[reader]

        return counted

    return decorate


def one_line(error: BaseException, *names: object) -> None:
    """What every message must be: one printable line of bearable length that names the thing."""
    text = str(error)
    assert text.isprintable(), ascii(text)[:500]
    assert len(text) < 5000, text[:500]
    for name in names:
        assert str(name) in text, text


@contextmanager
def refused(kinds: type[Exception] | tuple[type[Exception], ...], *names: object) -> Iterator[None]:
    """The block ends well, or in an error of these kinds that names these things."""
    try:
        yield
    except kinds as error:
        one_line(error, *names)


def break_bytes(whole: bytes, rng: random.Random) -> bytes:
    """A few places of a file overwritten, cut out, doubled, cut off or filled; mostly where the headers lie."""
    data = bytearray(whole)
    for _ in range(rng.randrange(1, 5)):
        near = min(len(data), 256)
        at = rng.choice((rng.randrange(near + 1), len(data) - rng.randrange(near + 1), rng.randrange(len(data) + 1)))
        size = rng.randrange(1, 17)
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at:]
            case 2:
                data[at:at] = rng.choice(MORSELS)
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size] * rng.randrange(1, 9)
            case 5:
                data[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 4 + b"\xff" * 4))
    return bytes(data)


def break_json(whole: Any, rng: random.Random) -> bytes:
    """A JSON file with a few entries replaced, removed, doubled or renamed, and sometimes its bytes broken too."""
    content = copy.deepcopy(whole)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        content = _break_entry(content, rng)
    data = json.dumps(content).encode(rng.choice((*["utf-8"] * 17, "utf-8-sig", "utf-16", "utf-32")))
    return break_bytes(data, rng) if rng.randrange(4) == 0 else data


def _break_entry(content: Any, rng: random.Random) -> Any:
    if not isinstance(content, dict | list) or not content or not rng.randrange(10):
        return copy.deepcopy(rng.choice(LEAVES))
    key = rng.choice(list(content)) if isinstance(content, dict) else rng.randrange(len(content))
    match rng.randrange(9):
        case 0:
            content[key] = copy.deepcopy(rng.choice(LEAVES))
        case 1:
            del content[key]
        case 2 if isinstance(content, list):
            content.append(copy.deepcopy(content[key]))
        case 2:
            content[str(rng.choice(LEAVES))[:400]] = content.pop(key)
        case _:
            content[key] = _break_entry(content[key], rng)
    return content
