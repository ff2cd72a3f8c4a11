"""Training scenes drawn so that rare actions come as often as common ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lvad.errors import DataError
from lvad.ops import action_weights
from lvad.types import Scene


def scene_weights(scenes: Sequence[Scene]) -> Tensor:
    """How often each scene is drawn, in the mean, where as many are drawn as there are: ``action_weights``.

    Args:
        scenes: N labelled scenes, at least one.

    Returns:
        float[N], mean 1.

    Raises:
        DataError: for a scene without labels.
    """
    if blank := [scene.id for scene in scenes if scene.actions is None]:
        raise DataError(
            f"{len(blank)} of {len(scenes)} training scenes have no actions to balance, first {blank[0]!r}; set "
            "balance to false, or train on labelled scenes (unlabelled: false)"
        )
    return action_weights(torch.tensor([scene.actions for scene in scenes]))
