"""A loader that goes on in the middle of an epoch."""

import pytest
import torch

from lvad.data.resume import BalancedSampler, EpochSampler, ResumableLoader


class Squares(torch.utils.data.Dataset):
    """Knows which entries were decoded."""

    def __init__(self, size):
        self.size, self.decoded = size, []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.decoded.append(index)
        return index


def make_loader(sampler, num_workers=0):
    return ResumableLoader(Squares(10), batch_size=3, sampler=sampler, num_workers=num_workers)


SAMPLERS = [lambda: EpochSampler(10, seed=4), lambda: BalancedSampler(torch.arange(1.0, 11), seed=4)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("make_sampler", SAMPLERS)
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_it_goes_on_behind_what_was_given(make_sampler, stop, num_workers):
    whole = make_loader(make_sampler())
    whole.sampler.set_epoch(2)
    batches = [batch.tolist() for batch in whole]
    broken = make_loader(make_sampler())
    broken.sampler.set_epoch(2)
    seen = [batch.tolist() for batch, _ in zip(broken, range(stop), strict=False)] if stop else []
    resumed = make_loader(make_sampler(), num_workers)
    # zip takes one more batch than it hands on
    resumed.load_state_dict({"given": stop})
    resumed.sampler.set_epoch(2)
    rest = [batch.tolist() for batch in resumed]
    assert seen[:stop] + rest == batches
    assert resumed.state_dict() == {"given": 4}
    resumed.sampler.set_epoch(3)
    assert len(list(resumed)) == 4  # the next epoch is whole


def test_what_was_seen_is_not_decoded_again():
    loader = make_loader(EpochSampler(10, seed=0))
    loader.load_state_dict({"given": 3})
    list(loader)
    assert len(loader.dataset.decoded) == 1


def test_the_state_counts_what_was_given_and_not_what_was_fetched():
    loader = make_loader(EpochSampler(10, seed=0), num_workers=2)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict() == {"given": 1}


def test_a_finished_epoch_is_followed_by_a_whole_one():
    loader = make_loader(EpochSampler(10, seed=0))
    loader.load_state_dict({"given": 4})
    assert len(list(loader)) == 4


def test_it_takes_no_random_number_of_the_training():
    state = torch.get_rng_state()
    list(make_loader(EpochSampler(10, seed=0)))
    assert torch.equal(torch.get_rng_state(), state)
