"""The packed row."""

import torch

from lvad.policy.shared_prefix import pack, prefix_positions, unpack
from lvad.types import Prefix


def test_mask_by_hand():
    # P = 2, K = 2, T = 3: two fed tokens per completion.
    row = pack(torch.tensor([[True, True]]), num_completions=2, num_tokens=3)
    assert row.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 2, 3]]


def test_padding_is_seen_by_none_but_itself_and_takes_no_position():
    row = pack(torch.tensor([[True, False]]), num_completions=1, num_tokens=2)
    assert row.attention_mask[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert row.position_ids.tolist() == [[0, 0, 1]]
    assert prefix_positions(torch.tensor([[True, True, False]])).tolist() == [[0, 1, 1]]


def test_one_token_completions_need_no_fed_token():
    row = pack(torch.tensor([[True, True]]), num_completions=3, num_tokens=1)
    assert row.attention_mask.shape == (1, 1, 2, 2)


def test_unpack_takes_the_state_before_each_token():
    # Positions 0, 1 prefix (1 is padding in scene 2), 2-3 completion 1, 4-5 completion 2.
    hidden = torch.arange(6.0).view(1, 6, 1).repeat(2, 1, 1)
    prefix = Prefix(torch.zeros(2, 2, 1), torch.tensor([[True, True], [True, False]]))
    states = unpack(hidden, prefix, num_completions=2, num_tokens=3).squeeze(-1)
    assert states.tolist() == [[[1, 2, 3], [1, 4, 5]], [[0, 2, 3], [0, 4, 5]]]
