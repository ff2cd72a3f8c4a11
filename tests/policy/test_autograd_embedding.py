"""Several lookups, one gradient, the same as PyTorch's."""

import pytest
import torch
from torch import nn

from lvad.policy.autograd_functions import shared_lookup

FIRST, SECOND = torch.tensor([1, 2, 2, 0]), torch.tensor([4, 1])


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("is_tied", [False, True])
def test_values_and_gradient_are_those_of_plain_lookups(is_tied, padding):
    torch.manual_seed(0)
    embedding = nn.Embedding(5, 3, padding_idx=padding, dtype=torch.float64)

    def gradient(look):
        one, other = look(FIRST), look(SECOND)
        loss = (one * torch.arange(12.0).view(4, 3)).sum() + other.square().sum()
        if is_tied:
            loss = loss + (one @ embedding.weight.t()).sum()
        (grad,) = torch.autograd.grad(loss, embedding.weight)
        return one, other, grad

    for ours, theirs in zip(gradient(shared_lookup(embedding)), gradient(embedding), strict=True):
        assert not ours.is_sparse
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_frozen_embedding_has_no_gradient():
    embedding = nn.Embedding(5, 3).requires_grad_(False)
    assert not shared_lookup(embedding)(FIRST).requires_grad


def test_a_lookup_begun_without_gradients_goes_on_with_them():
    embedding = nn.Embedding(5, 3)
    with torch.no_grad():
        lookup = shared_lookup(embedding)
        assert not lookup(FIRST).requires_grad
    lookup(SECOND).sum().backward()
    assert embedding.weight.grad.sum(1).tolist() == [0, 3, 0, 0, 3]


def test_the_gradient_is_made_whole_once():
    embedding, whole = nn.Embedding(50, 3), []
    lookup = shared_lookup(embedding)
    embedding.weight.register_hook(lambda grad: whole.append(grad.layout))
    (lookup(FIRST).sum() + lookup(SECOND).sum()).backward()
    assert whole == [torch.strided]
    assert embedding.weight.grad.layout == torch.strided
