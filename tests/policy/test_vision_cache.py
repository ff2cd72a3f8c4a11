"""Kept visual tokens: within bounds, and what is worth keeping."""

import random
from types import SimpleNamespace

import pytest
import torch

from lvad.policy import vision
from lvad.policy.vision import FeatureStore, VisionCache, store_key

BYTES_PER_MB = 2**20
QUARTER = torch.zeros(BYTES_PER_MB // 4 // 4, 1)


def keys(names, encoder=b"encoder"):
    return [store_key(name.encode(), encoder) for name in names]


def test_memory_is_bounded_and_first_come_stay():
    store = FeatureStore(VisionCache(memory_mb=1))
    a, b, c, d, e = keys("abcde")
    for key in (a, b, c, d, e, a):
        store.put(key, QUARTER)
    assert [store.get(key) is not None for key in (a, b, c, d, e)] == [True] * 4 + [False]
    assert store.num_bytes == BYTES_PER_MB


def test_another_towers_tokens_leave_first_the_least_recently_used_before_others():
    store = FeatureStore(VisionCache(memory_mb=1))
    old, new = keys("abcd", b"old"), keys("xyz", b"new")
    for key in old:
        store.put(key, QUARTER)
    store.get(old[0])
    for key in new:
        store.put(key, QUARTER)
    assert [store.get(key) is not None for key in (*old, *new)] == [True, False, False, False, True, True, True]
    (huge,) = keys("h", b"newest")
    store.put(huge, torch.zeros(5 * len(QUARTER), 1))
    assert store.get(huge) is None
    assert store.num_bytes == BYTES_PER_MB


def test_shuffled_epochs_over_twice_as_many_scenes_find_half_of_them():
    """Were the least recently used to leave, it would be 15 %."""
    store, scenes = FeatureStore(VisionCache(memory_mb=1)), keys([f"{i}" for i in range(64)])
    features = torch.zeros(BYTES_PER_MB // 32 // 4, 1)
    order = random.Random(0)
    for epoch in range(3):
        found = 0
        for key in order.sample(scenes, len(scenes)):
            found += store.get(key) is not None
            store.put(key, features)
        assert epoch == 0 or found == 32


def test_a_quarter_of_the_free_memory_is_shared_by_the_processes_of_the_machine(monkeypatch):
    monkeypatch.setattr(vision, "free_bytes", lambda: 16 * BYTES_PER_MB)
    monkeypatch.setattr(vision, "_processes_here", lambda: 2)
    store, names = FeatureStore(VisionCache()), keys([f"{i}" for i in range(12)])
    for key in names:
        store.put(key, QUARTER)
    assert store.num_bytes == 2 * BYTES_PER_MB


def test_the_memory_of_a_control_group_bounds_that_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(vision, "_own_groups", lambda: [tmp_path, tmp_path / "unlimited"])
    monkeypatch.setattr(vision.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**12))
    (tmp_path / "memory.max").write_text("8000\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3500\nfile 1500\n")
    assert vision.free_bytes() == 8000 - 5000 + 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert vision.free_bytes() == 10**12


def test_a_cache_of_less_than_nothing_is_refused():
    with pytest.raises(ValueError, match="memory_mb"):
        VisionCache(memory_mb=-1)


def test_whether_anything_is_kept(tmp_path):
    assert VisionCache().keeps
    assert VisionCache(0, str(tmp_path)).keeps
    assert not VisionCache(0).keeps
