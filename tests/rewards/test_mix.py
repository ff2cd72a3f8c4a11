"""Sums, ensembles and margins: by hand, and from YAML."""

import math

import pytest
import torch
from jsonargparse import ArgumentParser
from test_clip import batch, frames
from test_rules import rollouts
from torch import nn

from lvad.errors import BrokenReward
from lvad.objectives.regularisation import check_finite
from lvad.rewards import CLIPCosine, CLIPMargin, Ensemble, Mix, Repetition
from lvad.types import Reward, Scores


class Fixed(nn.Module):
    """Gives what it was told."""

    def __init__(self, values: list[float], **terms: list[float]) -> None:
        super().__init__()
        self.values, self.terms = torch.tensor([values]), {k: torch.tensor([v]) for k, v in terms.items()}
        self.weight = nn.Parameter(torch.zeros(1))

    def score(self, batch, rollouts) -> Scores:
        return Scores(self.values, self.terms or {"fixed": self.values})


SAID = rollouts([["x", "y"]])


def test_a_mix_is_the_weighted_sum_with_every_term_before_weighting():
    mix = Mix(
        {"one": Fixed([1.0, 2.0]), "two": Fixed([10.0, 30.0], a=[1.0, 1.0], b=[9.0, 29.0])}, {"one": 2.0, "two": -0.1}
    )
    scores = mix.score(None, SAID)
    torch.testing.assert_close(scores.total, torch.tensor([[1.0, 1.0]]))
    assert {name: term.tolist() for name, term in scores.terms.items()} == {
        "one": [[1, 2]], "two": [[10, 30]], "two/a": [[1, 1]], "two/b": [[9, 29]],
    }  # fmt: skip
    assert not any(p.requires_grad for p in mix.parameters())
    assert len(list(mix.parameters())) == 2


def test_an_ensemble_pays_the_mean_or_what_its_worst_member_pays():
    members = [Fixed([1.0, 0.0]), Fixed([3.0, 0.0])]
    scores = Ensemble(members).score(None, SAID)
    assert scores.total.tolist() == [[2, 0]]
    assert scores.terms["disagreement"].tolist() == [[1, 0]]
    assert scores.terms["member_1"].tolist() == [[3, 0]]
    assert Ensemble(members, "worst").score(None, SAID).total.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mix({}, {}), "needs a weight for each part"),
        (lambda: Mix({"a": Fixed([1.0])}, {"b": 1.0}), r"parts \['a'\] and weights \['b'\]"),
        (lambda: Mix({"a": Fixed([1.0])}, {"a": float("nan")}), "finite"),
        (lambda: Mix({"a": 3}, {"a": 1.0}), "'a' must be an nn.Module, got int"),
        (lambda: Ensemble([Fixed([1.0])]), "at least 2 members, got 1"),
        (lambda: Ensemble([Fixed([1.0])] * 2, "median"), "mean or worst"),
        (lambda: CLIPMargin(against="best"), "mean or hardest"),
    ],
)
def test_sums_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_mix_hands_on_what_is_not_finite(value):
    parts = {"fine": Fixed([1.0, 2.0]), "broken": Fixed([value, 1.0])}
    scores = Mix(parts, {"fine": 1.0, "broken": 2.0}).score(None, SAID)
    # 1 + 2 * value and 2 + 2 * 1.
    torch.testing.assert_close(scores.total, torch.tensor([[value, 4.0]]), equal_nan=True)
    torch.testing.assert_close(scores.terms["broken"], torch.tensor([[value, 1.0]]), equal_nan=True)
    with pytest.raises(BrokenReward, match="scene 'a', completion 0: broken"):
        check_finite(scores, ["a"], drop=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_watched_part_may_break_without_harm(value):
    parts = {"fine": Fixed([1.0, 2.0]), "watched": Fixed([value, 1.0])}
    scores = Mix(parts, {"fine": 1.0, "watched": 0.0}).score(None, SAID)
    assert scores.total.tolist() == [[1, 2]]
    torch.testing.assert_close(scores.terms["watched"], torch.tensor([[value, 1.0]]), equal_nan=True)
    alone = Mix({"watched": Fixed([value, 1.0])}, {"watched": 0.0}).score(None, SAID)
    assert alone.total.tolist() == [[0, 0]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("aggregate", ["mean", "worst"])
def test_an_ensemble_hides_nothing_that_is_not_finite(value, aggregate):
    members = [Fixed([1.0, 2.0]), Fixed([value, 4.0])]
    scores = Ensemble(members, aggregate).score(None, SAID)
    expected = 3.0 if aggregate == "mean" else 2.0
    torch.testing.assert_close(scores.total, torch.tensor([[math.nan, expected]]), equal_nan=True)
    torch.testing.assert_close(scores.terms["member_1"], torch.tensor([[value, 4.0]]), equal_nan=True)


def test_a_margin_by_hand(clip_folder):
    scenes = batch(frames(1, seed=1), frames(2, seed=2), frames(1, seed=3))
    said = rollouts([["a car", "b"], ["c d", "a car"], ["e", "f"]])
    cosine = CLIPCosine(str(clip_folder))
    images = cosine.embed_scenes(scenes)
    table = torch.einsum("cd,bkd->bkc", images, cosine.embed_completions(said))
    mean = CLIPMargin(str(clip_folder)).score(scenes, said)
    hardest = CLIPMargin(str(clip_folder), against="hardest").score(scenes, said)
    for b in range(3):
        others = [c for c in range(3) if c != b]
        for k in range(2):
            own = table[b, k, b]
            torch.testing.assert_close(mean.total[b, k], own - table[b, k, others].mean(), rtol=0, atol=1e-5)
            torch.testing.assert_close(hardest.total[b, k], own - table[b, k, others].max(), rtol=0, atol=1e-5)
    torch.testing.assert_close(mean.terms["clip"], cosine.score(scenes, said).total)


def test_a_text_that_fits_every_scene_alike_has_no_margin(clip_folder):
    same = frames(1)
    scores = CLIPMargin(str(clip_folder)).score(batch(same, same.clone()), rollouts([["a"], ["b"]]))
    assert scores.total.abs().max() < 1e-6


def test_a_scene_alone_has_a_margin_of_its_own(clip_folder):
    margin = CLIPMargin(str(clip_folder))
    alone = margin.score(batch(frames(2)), rollouts([["a car"]])).total
    margin.score(batch(frames(1, seed=8), frames(1, seed=9)), rollouts([["x"], ["y"]]))
    assert torch.equal(margin.score(batch(frames(2)), rollouts([["a car"]])).total, alone)


def test_embeddings_are_kept_by_content(clip_folder, monkeypatch):
    cached, plain = CLIPCosine(str(clip_folder)), CLIPCosine(str(clip_folder), cache_scenes=0)
    seen = []
    embed = cached.clip.embed_frames
    monkeypatch.setattr(cached.clip, "embed_frames", lambda frames: seen.append(len(frames)) or embed(frames))
    first, second = frames(2, seed=1), frames(2, seed=2)
    texts = rollouts([["a", "b"], ["c", "a"]])
    for _ in range(2):
        scores = cached.score(batch(first, second), texts).total
        torch.testing.assert_close(scores, plain.score(batch(first, second), texts).total, rtol=0, atol=1e-6)
    assert seen == [1, 1]  # each by itself, so that the company does not matter
    changed = second.clone()
    changed[1, 2, 64, 64] += 1
    cached.score(batch(changed, first), texts)
    assert seen == [1, 1, 1]
    cached.score(batch(first, first), texts)  # twice in a batch, and known
    assert seen == [1, 1, 1]
    assert not plain._kept
    assert set(cached.state_dict()) == set(plain.state_dict())


def test_frames_of_other_shape_with_the_same_bytes_are_other_frames(clip_folder):
    reward = CLIPCosine(str(clip_folder))
    wide = torch.arange(3 * 64 * 32, dtype=torch.int32).to(torch.uint8).view(1, 3, 64, 32)
    reward.embed_scenes(batch(wide, wide.view(1, 3, 32, 64)))
    assert len(reward._kept) == 2


def test_the_longest_unused_scene_leaves_first(clip_folder):
    reward = CLIPCosine(str(clip_folder), cache_scenes=2)
    one, two, three = (frames(1, seed=i) for i in range(3))
    for scene in (one, two, one, three):
        reward.embed_scenes(batch(scene))
    kept = list(reward._kept)
    reward.embed_scenes(batch(one))
    assert list(reward._kept) == [kept[1], kept[0]]
    # More scenes in one batch than are kept: all are scored.
    assert reward.score(batch(one, two, three), rollouts([["a"]] * 3)).total.shape == (3, 1)
    with pytest.raises(ValueError, match="cache_scenes must be >= 0"):
        CLIPCosine(str(clip_folder), cache_scenes=-1)


def test_a_mix_from_yaml(clip_folder, tmp_path):
    config = tmp_path / "reward.yaml"
    config.write_text(f"""
reward:
  class_path: lvad.rewards.Mix
  init_args:
    parts:
      clip: {{class_path: lvad.rewards.CLIPCosine, init_args: {{model: {clip_folder}}}}}
      repetition: {{class_path: lvad.rewards.Repetition, init_args: {{ngram: 2}}}}
      pair:
        class_path: lvad.rewards.Ensemble
        init_args:
          members: [{{class_path: lvad.rewards.Format}}, {{class_path: lvad.rewards.Consistency}}]
          aggregate: worst
    weights: {{clip: 1.0, repetition: 0.5, pair: 0.1}}
""")
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--reward", type=Reward)
    mix = parser.instantiate_classes(parser.parse_args(["--config", str(config)])).reward
    assert isinstance(mix, Mix)
    assert isinstance(mix.parts["repetition"], Repetition)
    scores = mix.score(batch(frames(1)), rollouts([["a car a car", "a car"]]))
    assert set(scores.terms) == {"clip", "repetition", "pair", "pair/member_0", "pair/member_1", "pair/disagreement"}
    torch.testing.assert_close(scores.total, scores.terms["clip"] + 0.5 * scores.terms["repetition"])
