"""Rehearsal: labelled scenes beside the policy gradient."""

import pytest

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.objectives import Regularisation, Rehearsal


def labelled(root, unlabelled=False):
    split = Split(num_scenes=SceneCounts(train=5), unlabelled=unlabelled)
    return BDDOIADataModule(Source("lastframe", str(root)), split)


def test_rehearsal_takes_every_scene_once_before_any_again(drawn_root):
    rehearsal = Rehearsal(labelled(drawn_root), batch_size=2)
    rehearsal.setup()
    of_two_ranks = [rehearsal.batch_at(step, rank, 2).ids for step in range(5) for rank in (0, 1)]
    seen = [name for ids in of_two_ranks for name in ids]
    assert len(seen) == 20
    for epoch in range(4):
        assert sorted(seen[5 * epoch : 5 * epoch + 5]) == sorted(scene.id for scene in rehearsal.scenes)


@pytest.mark.slow
def test_rehearsal_lowers_its_loss_and_fades(fit, drawn_root):
    rehearsal = Rehearsal(labelled(drawn_root), weight=2.0, decay_steps=40, batch_size=5)
    _, watch, _ = fit(
        regularisation=Regularisation(rehearsal=rehearsal), steps=20, lora=False, trainer={"max_epochs": 5}
    )
    losses = watch.column("rehearsal/loss")
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert watch.column("rehearsal/weight")[10] == pytest.approx(1.5)


def test_rehearsal_refuses_what_it_cannot_use(drawn_root):
    with pytest.raises(ValueError, match="needs labels"):
        Rehearsal(labelled(drawn_root, unlabelled=True))
    for options, message in (
        ({"weight": 0}, "weight must be > 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"decay_steps": 0}, "decay_steps must be >= 1"),
        ({"target": "reason"}, "target must be caption or answer"),
    ):
        with pytest.raises(ValueError, match=message):
            Rehearsal(labelled(drawn_root), **options)
