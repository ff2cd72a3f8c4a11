"""The reward's and the answers' stages: they learn what they are shown, and refuse what they cannot learn from."""

import pytest
import torch
from lightning import Trainer, seed_everything

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.pairs import draw_negatives, draw_positives
from lvad.modules import ActionSFT, CLIPReward
from lvad.policy import HFPolicy, Sampling
from lvad.rewards.clip import CLIP


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3)


def fit(module, root, tmp_path, max_epochs, **options):
    trainer = Trainer(
        accelerator="cpu", max_epochs=max_epochs, default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, BDDOIADataModule("lastframe", str(root), batch_size=8, **options))
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.fixture
def make_sft(vlm_folder):
    def make(target, **options):
        seed_everything(0, verbose=False)
        policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=40), lora=None, freeze_vision=False)
        return ActionSFT(policy, target, optimizer=adamw, **options)

    return make


@pytest.fixture
def make_reward(clip_folder):
    def make(**options):
        seed_everything(0, verbose=False)
        return CLIPReward(CLIP(str(clip_folder)), optimizer=adamw, **options)

    return make


@pytest.mark.parametrize("target", ["action", "answer", "caption"])
def test_answers_are_learnt(make_sft, drawn_root, tmp_path, target):
    module = make_sft(target, num_targets=2 if target == "caption" else 1)
    before = fit(module, drawn_root, tmp_path, 1)
    after = fit(module, drawn_root, tmp_path, 6)
    assert after["val/loss"] < 0.8 * before["val/loss"]
    expected = {"val/fact_precision"} if target == "caption" else {"val/action_macro_f1", "val/no_action_read"}
    assert expected <= set(after)


def test_a_likelihood_needs_the_models_own_law(vlm_folder):
    policy = HFPolicy(str(vlm_folder), Sampling(temperature=1.5))
    with pytest.raises(ValueError, match="temperature 1, top_k 0, top_p 1"):
        ActionSFT(policy)


def test_scenes_without_labels_are_refused_by_name(make_sft, make_reward, drawn_root, tmp_path):
    with pytest.raises(ValueError, match="has no labels; set data"):
        fit(make_sft("action"), drawn_root, tmp_path, 1, unlabelled=True)
    with pytest.raises(ValueError, match="has no caption to learn"):
        fit(make_sft("caption"), drawn_root, tmp_path, 1, unlabelled=True)
    with pytest.raises(ValueError, match="scenes without reasons"):
        fit(make_reward(), drawn_root, tmp_path, 1, unlabelled=True)


def test_reward_learns_which_reasons_are_true(make_reward, drawn_root, tmp_path):
    before = fit(make_reward(), drawn_root, tmp_path, 1)
    after = fit(make_reward(), drawn_root, tmp_path, 15)
    assert after["val/auroc"] > before["val/auroc"]
    assert after["val/cosine_right"] > after["val/cosine_wrong"]


def test_reward_learns_captions_without_labels(make_reward, drawn_root, tmp_path):
    metrics = fit(make_reward(bce_weight=0.0, contrastive_weight=1.0), drawn_root, tmp_path, 2)
    assert metrics["train/loss"] < 3


def test_a_reward_without_a_loss_is_refused(make_reward):
    with pytest.raises(ValueError, match="one must be > 0"):
        make_reward(bce_weight=0.0)


def test_frozen_vision_trains_the_projection_alone(make_reward):
    module = make_reward(freeze_vision=True)
    trained = {n for n, p in module.clip.clip.visual.named_parameters() if p.requires_grad}
    assert trained == {"proj"}


def test_negatives_are_never_true():
    torch.manual_seed(0)
    is_true = torch.rand(500, 21) < 0.4
    drawn = draw_negatives(is_true, 3)
    assert not is_true.gather(1, drawn).any()
    assert (drawn.sort(1).values.diff(dim=1) > 0).all()
    with pytest.raises(ValueError, match="only 1 false labels"):
        draw_negatives(torch.tensor([[True, True, False]]), 2)


def test_positives_are_true_and_scenes_without_any_are_left_out():
    rows, labels = draw_positives(torch.tensor([[False, True, True], [False, False, False], [True, False, False]]))
    assert rows.tolist() == [0, 2]
    assert labels[0] in (1, 2)
    assert labels[1] == 0
    assert [len(part) for part in draw_positives(torch.zeros(2, 3, dtype=torch.bool))] == [0, 0]
