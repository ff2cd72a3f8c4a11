"""Token arithmetic, digests of content, and numbers read from a device."""

import hashlib
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lvad.ops import (
    _factors,
    action_weights,
    content_digest,
    entropy,
    fingerprints,
    gather_logps,
    kept_random_state,
    on_host,
    sequence_sum,
)


def test_gather_takes_each_tokens_entry():
    logps = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]]])
    assert gather_logps(logps, torch.tensor([[1, 0]])).tolist() == [[-2.0, -3.0]]


def test_entropy_of_a_coin_and_of_a_certainty():
    logps = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()
    assert entropy(logps).tolist() == pytest.approx([math.log(2), 0.0])


def test_a_digest_is_of_shape_and_content():
    pixels = torch.arange(12, dtype=torch.uint8).view(3, 4)
    known = hashlib.blake2b(b"salt(3, 4)" + bytes(range(12)), digest_size=16).digest()
    assert content_digest(pixels, b"salt") == content_digest(pixels.t().contiguous().t(), b"salt") == known
    assert content_digest(pixels.flatten(), b"salt") != known


def test_numbers_on_the_host_keep_their_values_and_lose_their_gradient():
    one = torch.tensor(1.5, requires_grad=True)
    read = on_host({"a": one, "b": torch.tensor(2)})
    assert read["a"].item() == 1.5
    assert not read["a"].requires_grad
    assert read["b"].item() == 2


def test_the_random_state_is_afterwards_what_it_was():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with kept_random_state(torch.device("cpu")):
        torch.manual_seed(1)
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)


def test_masked_values_that_are_not_numbers_do_not_leak():
    values = torch.tensor([[[1.0, math.nan]]])
    assert sequence_sum(values, torch.tensor([[[True, False]]])).tolist() == [[1.0]]


def test_a_scene_weighs_as_much_as_its_rarest_action():
    # Shares 3/4 forward, 2/4 stop: 1/share 4/3 and 2. Scenes: 4/3, 4/3, 2, 2 (stop is the rarer of both). Mean 5/3.
    actions = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]])
    weights = action_weights(actions)
    torch.testing.assert_close(weights, torch.tensor([4 / 5, 4 / 5, 6 / 5, 6 / 5]))
    assert torch.equal(action_weights(actions.bool()), weights)


def test_a_scene_without_action_weighs_like_the_most_common():
    # Shares 2/4 and 1/4: 2, 2, 4 and again 2; mean 5/2.
    actions = torch.tensor([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(action_weights(actions), torch.tensor([0.8, 0.8, 1.6, 0.8]))
    assert action_weights(torch.zeros(3, 4, dtype=torch.int64)).tolist() == [1, 1, 1]


def test_single_actions_come_to_the_same_weight_whatever_their_order():
    actions = torch.eye(4, dtype=torch.int64)[[1] * 84 + [0] * 10 + [2] * 3 + [3] * 3]
    weights = action_weights(actions)
    assert weights.mean().item() == pytest.approx(1)
    torch.testing.assert_close((weights[:, None] * actions).sum(0), torch.full((4,), 25.0))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(action_weights(actions[order]), weights[order])


def test_unlabelled_scenes_cannot_be_weighed():
    with pytest.raises(ValueError, match=r"0 or 1, got \[-1, 0, 1\]; label every scene"):
        action_weights(torch.tensor([[0, 1, 0, 0], [-1, -1, -1, -1]]))
    with pytest.raises(ValueError, match="no scenes"):
        action_weights(torch.zeros(0, 4, dtype=torch.int64))


def frames_of(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_fingerprints_are_of_content_shape_and_type_and_of_nothing_else():
    frames = frames_of(2, 3, 5, 7)
    same = frames.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)  # other strides
    others = [frames.flip(0), frames.reshape(1, 6, 5, 7), frames[:1], frames.long(), frames.view(torch.int8)]
    found = fingerprints([frames, *others, same])
    assert found[0] == found[-1] == fingerprints([frames])[0]
    assert len(set(found)) == 1 + len(others)
    assert all(len(each) == 16 for each in found)
    assert fingerprints([]) == []


def test_one_bit_anywhere_changes_about_half_of_a_fingerprint():
    """Single bits are the hardest case: the sums of two contents then differ by a number times a power of two."""
    frames = frames_of(1, 3, 6, 11)
    (first,) = fingerprints([frames])
    flat = frames.flatten()
    seen = {first}
    for place in range(0, len(flat), 7):
        for bit in range(8):
            changed = flat.clone()
            changed[place] ^= 1 << bit
            (found,) = fingerprints([changed.view_as(frames)])
            flipped = (int.from_bytes(found, "big") ^ int.from_bytes(first, "big")).bit_count()
            assert 32 <= flipped <= 96
            seen.add(found)
    assert len(seen) == 1 + 8 * len(range(0, len(flat), 7))


def test_bytes_that_change_places_or_move_along_are_seen():
    frames = torch.zeros(64, 1, 1, 64, dtype=torch.uint8)
    for place in range(64):
        frames[place, 0, 0, place] = 1
    assert len(set(fingerprints(list(frames)))) == 64


def test_the_factors_are_splitmix64():
    """The generator's published first outputs for the seed 0."""
    found = [number % 2**64 for number in _factors(2, torch.device("cpu")).flatten().tolist()]
    assert found[:3] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


class Reads(TorchDispatchMode):
    """Values that the host reads one by one, which is how a list of a tensor is not made."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("_local_scalar_dense", "item", "nonzero")
        return func(*args, **(kwargs or {}))


def test_fingerprints_read_no_value_one_by_one():
    with Reads() as reads:
        fingerprints([frames_of(1, 3, 4, 4, seed=i) for i in range(3)] + [frames_of(2, 3, 4, 4)])
    assert reads.count == 0
