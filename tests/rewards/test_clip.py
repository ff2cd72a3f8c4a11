"""The CLIP reward against plain open_clip, and as a judge of scenes."""

import open_clip
import pytest
import torch
from PIL import Image

from lvad.rewards.clip import CLIP, CLIPCosine
from lvad.types import Batch, Rollouts


def frames(count, height=128, width=128, seed=0):
    """Smooth random pictures: on white noise two resize kernels differ by their rounding alone."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 255 * torch.rand(count, 3, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)


def batch(*scenes):
    none = torch.zeros(len(scenes), 0)
    names, size = [str(i) for i in range(len(scenes))], len(scenes)
    return Batch(names, list(scenes), none, none, [()] * size, [None] * size, names)


def rollouts(texts):
    nothing = torch.zeros(len(texts), len(texts[0]), 0)
    return Rollouts(nothing, nothing.bool(), nothing, nothing, nothing[..., 0:0].any(-1), texts)


def test_scores_are_the_cosines_of_plain_open_clip(clip_folder):
    """One PIL image at a time through open_clip's own transform, tokenizer and encoders."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    model.eval()
    scene = frames(2)
    texts = ["A red car is right ahead.", "It is night."]
    with torch.no_grad():
        pixels = torch.stack([transform(Image.fromarray(f.permute(1, 2, 0).numpy())) for f in scene])
        image = model.encode_image(pixels, normalize=True).mean(0)
        text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{clip_folder}")(texts), normalize=True)
    expected = text @ (image / image.norm())
    scores = CLIPCosine(str(clip_folder)).score(batch(scene), rollouts([texts]))
    torch.testing.assert_close(scores.total[0], expected, rtol=0, atol=1e-5)
    assert scores.terms["clip"] is scores.total


@pytest.mark.parametrize(("height", "width"), [(128, 128), (360, 640), (200, 90)])
def test_preprocessing_is_that_of_open_clip(clip_folder, height, width):
    """Up to the rounding of resized pixels to bytes: a level is 1 / 127.5."""
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    frame = frames(1, height, width)
    expected = transform(Image.fromarray(frame[0].permute(1, 2, 0).numpy()))
    actual = CLIP(str(clip_folder)).preprocess(frame)[0]
    assert (actual - expected).abs().max() <= 2.01 / 127.5


def test_preprocessing_of_the_usual_shortest_side_and_crop():
    clip = CLIP("ViT-B-32")
    _, _, transform = open_clip.create_model_and_transforms("ViT-B-32")
    frame = frames(1, 240, 320)
    actual = clip.preprocess(frame)
    assert actual.shape == (1, 3, 224, 224)
    expected = transform(Image.fromarray(frame[0].permute(1, 2, 0).numpy()))
    assert (actual[0] - expected).abs().max() <= 2.01 / 255 / 0.26


def test_each_scene_is_judged_by_its_own_frames(clip_folder):
    reward = CLIPCosine(str(clip_folder))
    scenes, texts = [frames(2, seed=1), frames(1, seed=2)], [["a", "b c"], ["d", "e"]]
    together = reward.score(batch(*scenes), rollouts(texts)).total
    for i in range(2):
        alone = reward.score(batch(scenes[i]), rollouts([texts[i]])).total
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


def test_a_scene_of_equal_frames_scores_as_one_frame(clip_folder):
    reward = CLIPCosine(str(clip_folder))
    one = frames(1)
    scores = reward.score(batch(one, one.repeat(3, 1, 1, 1)), rollouts([["a car"], ["a car"]])).total
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-6)


def test_empty_and_overlong_texts_have_a_score(clip_folder):
    texts = [["", "car " * 500, "\n", "日本"]]
    assert CLIPCosine(str(clip_folder)).score(batch(frames(1)), rollouts(texts)).total.isfinite().all()


def test_a_judge_is_frozen_and_stays_in_evaluation_mode(clip_folder):
    reward = CLIPCosine(str(clip_folder))
    assert not any(p.requires_grad for p in reward.parameters())
    assert not any(module.training for module in reward.train().modules())


def test_a_judge_keeps_its_precision_in_a_module_of_16_bits(clip_folder):
    """As precision ``bf16-true`` and some strategies make of a stage; completions differ by thousandths."""
    judge = CLIPCosine(str(clip_folder))
    scene, texts = batch(frames(2)), rollouts([["A red car is right ahead.", "It is night."]])
    before = judge.score(scene, texts).total
    torch.nn.ModuleList([judge]).bfloat16()
    judge._kept.clear()
    assert torch.equal(judge.score(scene, texts).total, before)


def test_a_clip_of_16_bits_takes_frames(clip_folder):
    clip = CLIP(str(clip_folder)).bfloat16()
    expected = CLIP(str(clip_folder)).embed_frames([frames(2)])
    torch.testing.assert_close(clip.embed_frames([frames(2)]).float(), expected, rtol=0, atol=0.05)


def test_a_saved_clip_gives_the_same_numbers_in_plain_open_clip(clip_folder, tmp_path):
    clip = CLIP(str(clip_folder))
    with torch.no_grad():
        clip.clip.logit_scale.add_(0.5)
        clip.clip.text_projection.mul_(1.5)
    clip.save_pretrained(tmp_path)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a car"])
    torch.testing.assert_close(model.encode_text(tokens), clip.clip.encode_text(tokens))
    assert model.logit_scale == clip.clip.logit_scale


def test_a_folder_that_is_no_clip_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no open_clip folder: it holds no open_clip_config\.json"):
        CLIP(str(tmp_path))


def test_the_vision_encoders_weights_fit_those_of_the_captioner(clip_folder):
    """Same patches in, nearly the same features out: the zero class token takes a share of the attention."""
    from transformers import AutoModelForImageTextToText

    encoder = AutoModelForImageTextToText.from_pretrained(clip_folder.parent / "vlm").model.vision_model
    clip = CLIP(str(clip_folder))
    pixels = clip.preprocess(frames(3))
    with torch.no_grad():
        ours = clip.clip.visual(pixels) @ torch.linalg.pinv(clip.clip.visual.proj)
        theirs = encoder(pixel_values=pixels).last_hidden_state.mean(1)
    assert torch.cosine_similarity(ours, theirs).min() > 0.95


def test_an_architecture_without_weights_is_no_judge():
    with pytest.warns(UserWarning, match="'ViT-S-32-alt' starts from random weights"):
        clip = CLIP("ViT-S-32-alt")
    assert not clip.is_trained
    with (
        pytest.warns(UserWarning, match="random weights"),
        pytest.raises(ValueError, match="'ViT-S-32-alt' without weights judges at random"),
    ):
        CLIPCosine("ViT-S-32-alt")
