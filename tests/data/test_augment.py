"""Random views: a mirror swaps pictures and words alike, and a mirror that forgets the words is found out."""

import pytest
import torch

from lvad.data.augment import Augment, mirror_batch
from lvad.data.collate import SceneDataset, collate
from lvad.data.lastframe import read_lastframe
from lvad.data.pairs import mirrored_candidates
from lvad.data.synthetic.state import scene_facts
from lvad.data.synthetic.write import draw_scene
from lvad.facts import claims, is_true, mirror_facts
from lvad.rewards.clip import CLIP
from lvad.taxonomy import BDD_OIA


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    from lvad.data.synthetic import write_synthetic

    root = tmp_path_factory.mktemp("augment") / "drawn"
    write_synthetic(root, 0, 0, 200, seed=5, progress=False)
    return collate([SceneDataset(read_lastframe(root, 2).scenes, 2)[i] for i in range(200)])


def test_a_mirror_twice_is_the_scene_itself(scenes):
    back = mirror_batch(mirror_batch(scenes))
    for name, value in scenes._asdict().items():
        other = getattr(back, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other)
        elif name == "frames":
            assert all(torch.equal(a, b) for a, b in zip(value, other, strict=True))
        else:
            assert value == other


def test_mirrored_captions_are_true_of_mirrored_facts():
    for index in range(400):
        scene = draw_scene(11, index)
        truth = mirror_facts(scene_facts(scene.state))
        for caption in mirrored_captions(scene.captions):
            assert all(is_true(claim, truth) for claim in claims(caption)), caption


def mirrored_captions(captions):
    from lvad.text import mirror_text

    return [mirror_text(caption) for caption in captions]


def tells_sides(clip, batch):
    """Share of (scene, reason) pairs where the true reason beats its false mirror image."""
    with torch.no_grad():
        cosines = clip.embed_frames(batch.frames) @ clip.embed_texts(list(BDD_OIA.reason_texts)).T
    rival = list(mirrored_candidates("reason"))
    is_true = batch.reasons.bool()
    is_asymmetric = is_true & ~is_true[:, rival]
    return (cosines > cosines[:, rival])[is_asymmetric].float().mean().item()


def test_a_flip_that_does_not_swap_the_texts_is_caught(scenes):
    """The shipped reward tells left from right: in mirrored scenes too with mirrored labels, and wrongly without."""
    clip = CLIP("embedded/clip-reward").eval()
    flipped_alone = scenes._replace(frames=[frames.flip(-1) for frames in scenes.frames])
    as_drawn, swapped, unswapped = (tells_sides(clip, b) for b in (scenes, mirror_batch(scenes), flipped_alone))
    assert as_drawn > 0.7
    assert swapped > 0.7
    assert unswapped < 0.3


def test_all_frames_of_a_scene_get_the_same_view(scenes):
    one = scenes._replace(frames=[frames[:1].repeat(3, 1, 1, 1) for frames in scenes.frames])
    for frames in Augment(0.5, 0.3, 0.5)(one).frames[:20]:
        assert frames.shape == (3, 3, 128, 128)
        assert torch.equal(frames[0], frames[1])
        assert torch.equal(frames[0], frames[2])


def test_switched_off_nothing_changes_and_a_sure_mirror_is_the_mirror(scenes):
    same = Augment(1.0, 0.0, 0.0)(scenes)
    assert all(torch.equal(a, b) for a, b in zip(same.frames, scenes.frames, strict=True))
    turned = Augment(1.0, 0.0, 1.0)(scenes)
    assert torch.equal(turned.reasons, mirror_batch(scenes).reasons)
    assert turned.captions == mirror_batch(scenes).captions


def test_each_scene_keeps_or_swaps_frames_and_labels_together(scenes):
    torch.manual_seed(0)
    view, other = Augment(1.0, 0.0, 0.5)(scenes), mirror_batch(scenes)
    turned = [not torch.equal(a, b) for a, b in zip(view.frames, scenes.frames, strict=True)]
    assert 60 < sum(turned) < 140
    for i, is_turned in enumerate(turned):
        source = other if is_turned else scenes
        assert torch.equal(view.frames[i], source.frames[i])
        assert torch.equal(view.reasons[i], source.reasons[i])
        assert torch.equal(view.actions[i], source.actions[i])
        assert view.captions[i] == source.captions[i]
        assert view.facts[i] == source.facts[i]


@pytest.mark.parametrize(
    "options", [{"min_area": 0.0}, {"min_area": 1.1}, {"jitter": -0.1}, {"mirror_probability": 1.5}]
)
def test_values_out_of_range(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        Augment(**options)
