"""Fingerprints: of content, shape and type, spread over all bits, read once."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lvad.fingerprints import _factors, fingerprints


def frames_of(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_they_are_of_content_shape_and_type_and_of_nothing_else():
    frames = frames_of(2, 3, 5, 7)
    same = frames.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)  # other strides
    others = [frames.flip(0), frames.reshape(1, 6, 5, 7), frames[:1], frames.long(), frames.view(torch.int8)]
    found = fingerprints([frames, *others, same])
    assert found[0] == found[-1] == fingerprints([frames])[0]
    assert len(set(found)) == 1 + len(others)
    assert all(len(each) == 16 for each in found)
    assert fingerprints([]) == []


def test_one_bit_anywhere_changes_about_half_of_them():
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


def test_no_value_is_read_one_by_one():
    with Reads() as reads:
        fingerprints([frames_of(1, 3, 4, 4, seed=i) for i in range(3)] + [frames_of(2, 3, 4, 4)])
    assert reads.count == 0
