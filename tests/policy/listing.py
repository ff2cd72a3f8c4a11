"""Every sequence of a vocabulary small enough to list."""

import itertools

import torch

from lvad.types import Rollouts


def only(policy, *texts):
    """Ban all tokens but these and the end, so that every sequence can be listed."""
    ids = [policy.processor.tokenizer.convert_tokens_to_ids(t) for t in texts]
    policy.banned.fill_(True)
    policy.banned[[*ids, policy.end_id]] = False
    return ids


def every_completion(policy, ids, num_tokens):
    """All sequences over ids that end, or are cut at num_tokens."""
    for length in range(num_tokens):
        yield from ([*head, policy.end_id] for head in itertools.product(ids, repeat=length))
    yield from (list(head) for head in itertools.product(ids, repeat=num_tokens))


def as_rollouts(policy, sequences):
    width = max(map(len, sequences))
    tokens = torch.tensor([[s + [policy.pad_id] * (width - len(s)) for s in sequences]])
    mask = torch.tensor([[[True] * len(s) + [False] * (width - len(s)) for s in sequences]])
    zeros = torch.zeros(tokens.shape)
    return Rollouts(tokens, mask, zeros, zeros, ~mask.any(-1), [[""] * len(sequences)])
