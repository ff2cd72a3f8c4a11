"""Kept visual tokens: within bounds, and what is worth keeping."""

import random
from types import SimpleNamespace

import torch

from lvad.policy import visual_token_cache
from lvad.policy.visual_token_cache import VisualTokenCache, cache_key

BYTES_PER_MB = 2**20
QUARTER = torch.zeros(BYTES_PER_MB // 4 // 4, 1)


def keys(names, encoder=b"encoder"):
    return [cache_key(name.encode(), encoder) for name in names]


def test_memory_is_bounded_and_first_come_stay():
    cache = VisualTokenCache(memory_mb=1)
    a, b, c, d, e = keys("abcde")
    for key in (a, b, c, d, e, a):
        cache.put(key, QUARTER)
    assert [cache.get(key) is not None for key in (a, b, c, d, e)] == [True] * 4 + [False]
    assert cache.num_bytes == BYTES_PER_MB


def test_another_encoders_tokens_leave_first_the_least_recently_used_before_others():
    cache = VisualTokenCache(memory_mb=1)
    old, new = keys("abcd", b"old"), keys("xyz", b"new")
    for key in old:
        cache.put(key, QUARTER)
    cache.get(old[0])
    for key in new:
        cache.put(key, QUARTER)
    assert [cache.get(key) is not None for key in (*old, *new)] == [True, False, False, False, True, True, True]
    (huge,) = keys("h", b"newest")
    cache.put(huge, torch.zeros(5 * len(QUARTER), 1))
    assert cache.get(huge) is None
    assert cache.num_bytes == BYTES_PER_MB


def test_shuffled_epochs_over_twice_as_many_scenes_find_half_of_them():
    """Were the least recently used to leave, it would be 15 %."""
    cache, scenes = VisualTokenCache(memory_mb=1), keys([f"{i}" for i in range(64)])
    features = torch.zeros(BYTES_PER_MB // 32 // 4, 1)
    order = random.Random(0)
    for epoch in range(3):
        found = 0
        for key in order.sample(scenes, len(scenes)):
            found += cache.get(key) is not None
            cache.put(key, features)
        assert epoch == 0 or found == 32


def test_a_quarter_of_the_free_memory_is_shared_by_the_processes_of_the_machine(monkeypatch):
    monkeypatch.setattr(visual_token_cache, "free_bytes", lambda: 16 * BYTES_PER_MB)
    monkeypatch.setattr(visual_token_cache, "_processes_here", lambda: 2)
    cache, names = VisualTokenCache(), keys([f"{i}" for i in range(12)])
    for key in names:
        cache.put(key, QUARTER)
    assert cache.num_bytes == 2 * BYTES_PER_MB


def test_the_memory_of_a_control_group_bounds_that_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(visual_token_cache, "_own_groups", lambda: [tmp_path, tmp_path / "unlimited"])
    monkeypatch.setattr(visual_token_cache.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**12))
    (tmp_path / "memory.max").write_text("8000\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3500\nfile 1500\n")
    assert visual_token_cache.free_bytes() == 8000 - 5000 + 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert visual_token_cache.free_bytes() == 10**12
