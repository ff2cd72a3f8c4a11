"""What a policy under pressure would try, and what a long run does to judges."""

from types import SimpleNamespace

import pytest
import torch
from test_clip import batch, frames
from test_rules import EVERYTHING, rollouts, score
from torch import nn

from lvad.commands.lightning_cli import make_cli
from lvad.rewards import CLIPCosine, CLIPMargin, Consistency, Ensemble, Format, Length, Mix, Repetition
from lvad.taxonomy import BDD_OIA
from lvad.types import Scores

RULES = (Repetition(), Length(), Format(), Consistency())
NONSENSE = ("", " \n\t", "!!! ??? ...", "日本日本", "é́🚗🚗🚗", "asdf qwer zxcv", "car " * 10_000, "\x00", EVERYTHING)


class Told(nn.Module):
    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = torch.tensor([values])

    def score(self, batch, rollouts) -> Scores:
        return Scores(self.values, {"told": self.values})


@pytest.mark.parametrize("rule", RULES)
def test_rules_judge_anything_within_their_range(rule):
    low, high = (-1, 0) if isinstance(rule, Repetition | Length) else (0, 1)
    assert all(low <= value <= high for value in score(rule, *NONSENSE))


@pytest.mark.parametrize("rule", RULES)
def test_rules_judge_each_text_alone_and_keep_its_place(rule):
    texts = [["a car", "stop stop stop stop"], ["Action: stop. Reason: traffic sign.", ""], ["a b", "c d e f g h"]]
    together = rule.score(SimpleNamespace(taxonomy=BDD_OIA), rollouts(texts)).total
    assert together.shape == (3, 2)
    assert together.dtype == torch.float32
    for row, values in zip(texts, together, strict=True):
        assert score(rule, *reversed(row)) == list(reversed(values.tolist()))


def test_case_and_punctuation_do_not_hide_a_repetition():
    assert score(Repetition(2), "Red car, RED-CAR; red car!") == score(Repetition(2), "red car red car red car")


def test_a_loop_costs_more_the_longer_it_is_even_where_it_is_short():
    # n is 1, 2, 3, 3 here: 1 of 2 single words, 1 of 2 pairs, 1 of 2 triples, 2 of 3 triples were said before.
    found = score(Repetition(3), "car car", "car car car", "car car car car", "car car car car car")
    assert found == pytest.approx([-1 / 2, -1 / 2, -1 / 2, -2 / 3])


def test_silence_never_wins():
    """Neither by rule nor by their sum, against a plain description and a plain answer."""
    description = "It is night. A red car is right ahead, and the left line is solid."
    assert score(Length(), "")[0] < score(Length(), description)[0] == 0
    answer = "Action: stop. Reason: traffic light is not green."
    for rule in (Format(), Consistency()):
        assert score(rule, "")[0] == 0 < score(rule, answer)[0]


def test_invented_reasons_dilute_the_true_one():
    answer = "Action: stop. Reason: traffic sign, aliens, more aliens, a dream."
    assert score(Consistency(), answer) == pytest.approx([1 / 4])


def test_actions_that_exclude_each_other_have_no_reason():
    answer = "Action: forward, stop, left, right. Reason: traffic sign."
    assert score(Consistency(), answer) == [0]


@pytest.fixture
def placed(monkeypatch):
    """A margin over scenes and texts placed by hand on the plane, in degrees."""

    def make(scene_degrees, text_degrees, **options):
        def unit(degrees):
            angles = torch.tensor(degrees, dtype=torch.float32).deg2rad()
            return torch.stack([angles.cos(), angles.sin()], -1)

        monkeypatch.setattr(CLIPCosine, "__init__", lambda self, *args: nn.Module.__init__(self))
        monkeypatch.setattr(CLIPCosine, "embed_scenes", lambda self, batch: unit(scene_degrees))
        monkeypatch.setattr(CLIPCosine, "embed_completions", lambda self, rollouts: unit(text_degrees))
        return CLIPMargin(**options).score(None, rollouts([["x"] * len(row) for row in text_degrees]))

    return make


def test_margin_worked_by_hand(placed):
    # Scenes at 0, 60 and 90 degrees. The text at 0, of the first: 1 - (cos 60 + cos 90) / 2 = 1 - 1/4 = 3/4, against
    # the hardest 1 - 1/2. At 60, of the second: 1 - (1/2 + cos 30) / 2 = 0.316987, against the hardest 1 - cos 30.
    # At 0, of the third: 0 - (1 + 1/2) / 2 = -3/4, against the hardest 0 - 1.
    texts = [[0.0], [60.0], [0.0]]
    scores = placed([0.0, 60.0, 90.0], texts)
    torch.testing.assert_close(scores.total[:, 0], torch.tensor([0.75, 0.316987, -0.75]), rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.terms["clip"][:, 0], torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-5)
    hardest = placed([0.0, 60.0, 90.0], texts, against="hardest").total[:, 0]
    torch.testing.assert_close(hardest, torch.tensor([0.5, 1 - 3**0.5 / 2, -1.0]), rtol=0, atol=1e-5)


def test_what_fits_all_scenes_pays_less_than_what_fits_one(placed):
    """Between two scenes at 0 and 90: the text in the middle has the better cosine than one at -60, no margin."""
    scores = placed([0.0, 90.0], [[45.0, -60.0], [45.0, 150.0]])
    assert (scores.terms["clip"][:, 0] > scores.terms["clip"][:, 1]).all()
    assert (scores.total[:, 0] < scores.total[:, 1]).all()
    torch.testing.assert_close(scores.total[:, 0], torch.zeros(2), rtol=0, atol=1e-6)


def test_a_lone_scene_has_no_margin_and_a_warning(placed):
    with pytest.warns(UserWarning, match="batch_size >= 2"):
        scores = placed([0.0], [[0.0, 60.0]])
    assert scores.total.tolist() == [[0, 0]]
    torch.testing.assert_close(scores.terms["clip"], torch.tensor([[1.0, 0.5]]))


def test_margins_follow_their_scenes_in_any_order(clip_folder):
    margin = CLIPMargin(str(clip_folder))
    scenes, texts = [frames(1, seed=i) for i in range(3)], [["a", "b"], ["c", "a"], ["d", "e"]]
    forth = margin.score(batch(*scenes), rollouts(texts)).total
    back = margin.score(batch(*scenes[::-1]), rollouts(texts[::-1])).total
    torch.testing.assert_close(forth, back.flip(0), rtol=0, atol=1e-6)


def test_equal_texts_are_read_once(clip_folder, monkeypatch):
    reward = CLIPCosine(str(clip_folder))
    read, embed = [], reward.clip.embed_texts
    monkeypatch.setattr(reward.clip, "embed_texts", lambda texts: read.append(texts) or embed(texts))
    scores = reward.score(batch(frames(1, seed=1), frames(1, seed=2)), rollouts([["b", "a", "b"], ["a", "c", "a"]]))
    assert read == [["b", "a", "c"]]
    assert scores.total[0, 0] == scores.total[0, 2] != scores.total[0, 1]


def test_what_validation_cached_can_be_trained_on(clip_folder):
    """Lightning validates in inference mode, whose tensors autograd refuses."""
    reward = CLIPCosine(str(clip_folder))
    scene, texts = batch(frames(1)), rollouts([["a", "b"]])
    with torch.inference_mode():
        before = reward.score(scene, texts).total.clone()
    weight = torch.ones(1, requires_grad=True)
    after = reward.score(scene, texts).total
    (weight * after).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(after, before.clone(), rtol=0, atol=1e-6)


def test_other_weights_forget_the_cache(clip_folder):
    reward = CLIPCosine(str(clip_folder))
    scene = batch(frames(1))
    before = reward.embed_scenes(scene)
    state = {k: -v if k.endswith("visual.proj") else v for k, v in reward.state_dict().items()}
    nn.ModuleList([reward]).load_state_dict({f"0.{k}": v for k, v in state.items()})
    torch.testing.assert_close(reward.embed_scenes(scene), -before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "mean", "best", "train", "keys"])
def test_parts_that_cannot_be_logged(name):
    with pytest.raises(ValueError, match="parts cannot have the name"):
        Mix({name: Told(1.0)}, {name: 1.0})


def test_judges_of_judges_stay_frozen(clip_folder):
    mix = Mix({"pair": Ensemble([CLIPCosine(str(clip_folder)), CLIPMargin(str(clip_folder))])}, {"pair": 1.0})
    assert not any(module.training for module in mix.train().modules())
    assert not any(p.requires_grad for p in mix.parameters())
    assert len(list(mix.parameters())) == 2 * len(list(CLIPCosine(str(clip_folder)).parameters()))


def test_an_ensemble_by_hand():
    # 1, 2, 6: mean 3, minimum 1, deviations -2, -1, 3, so sqrt(14 / 3).
    scores = Ensemble([Told(1.0), Told(2.0), Told(6.0)]).score(None, rollouts([["x"]]))
    assert scores.total.item() == pytest.approx(3)
    assert scores.terms["disagreement"].item() == pytest.approx((14 / 3) ** 0.5)
    assert Ensemble([Told(6.0), Told(1.0)], "worst").score(None, rollouts([["x"]])).total.item() == 1


def test_the_command_line_builds_a_mix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "mix.yaml"
    config.write_text("""
model:
  class_path: lvad.modules.RLOOPolicy
  init_args:
    policy: {class_path: lvad.policy.HFPolicy, init_args: {model: embedded/vlm, lora: {rank: 2, alpha: 4}}}
    reward:
      class_path: lvad.rewards.Mix
      init_args:
        parts:
          clip: {class_path: lvad.rewards.CLIPCosine, init_args: {model: embedded/clip-reward, cache_scenes: 10}}
          repetition: {class_path: lvad.rewards.Repetition}
        weights: {clip: 1.0, repetition: 0.5}
checkpoint: {monitor: val/reward}
data: {source: {format: synthetic, root: drawn}}
""")
    reward = make_cli(["--config", str(config)]).model.reward
    assert isinstance(reward, Mix)
    assert reward.weights == {"clip": 1.0, "repetition": 0.5}
    assert reward.parts["clip"].cache_scenes == 10
