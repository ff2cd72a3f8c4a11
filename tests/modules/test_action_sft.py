"""The answers' stage: it learns what it is shown, and refuses what it cannot learn from."""

from dataclasses import replace

import pytest
import torch
from lightning import Trainer, seed_everything

from lvad.data.datamodule import BDDOIADataModule
from lvad.modules import ActionSFT
from lvad.policy import HFPolicy, Sampling


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


@pytest.mark.parametrize("target", ["action", "answer", "caption"])
def test_answers_are_learnt(make_sft, drawn_root, tmp_path, target):
    module = make_sft(target, num_targets=2 if target == "caption" else 1)
    before = fit(module, drawn_root, tmp_path, 1)
    after = fit(module, drawn_root, tmp_path, 6)
    assert after["val/loss"] < 0.8 * before["val/loss"]
    expected = {"val/fact_precision"} if target == "caption" else {"val/action_macro_f1", "val/parse_failure"}
    assert expected <= set(after)


def test_a_likelihood_needs_the_models_own_law(vlm_folder):
    policy = HFPolicy(str(vlm_folder), Sampling(temperature=1.5))
    with pytest.raises(ValueError, match="temperature 1, top_k 0, top_p 1"):
        ActionSFT(policy)


def test_scenes_without_labels_are_refused_by_name(make_sft, drawn_root, tmp_path):
    with pytest.raises(ValueError, match="has no labels; set data"):
        fit(make_sft("action"), drawn_root, tmp_path, 1, unlabelled=True)
    with pytest.raises(ValueError, match="has no caption to learn"):
        fit(make_sft("caption"), drawn_root, tmp_path, 1, unlabelled=True)


def test_constrained_answers_are_always_valid(make_sft, drawn_root, tmp_path):
    """Of random weights too, which write nothing that can be read by themselves."""
    for constrain, failure in ((False, 1.0), (True, 0.0)):
        module = make_sft("answer", constrain=constrain)
        module.policy.sampling = replace(module.policy.sampling, max_new_tokens=150)
        assert fit(module, drawn_root, tmp_path, 1)["val/parse_failure"] == failure


@pytest.fixture
def describer(vlm_folder):
    seed_everything(7, verbose=False)
    return HFPolicy(str(vlm_folder), Sampling(max_new_tokens=5), lora=None)


def test_descriptions_come_from_the_first_stage_before_and_after_training(make_sft, describer, drawn_root, tmp_path):
    start = {name: value.clone() for name, value in describer.state_dict().items()}
    module = make_sft("action", describer=describer)
    asked = []
    encode = module.policy.encode
    module.policy.encode = lambda batch, queries: asked.append(queries) or encode(batch, queries)
    fit(module, drawn_root, tmp_path, 2)
    assert all(torch.equal(value, start[name]) for name, value in describer.state_dict().items())
    assert not any(name.startswith("describer.") for name, p in module.named_parameters() if p.requires_grad)
    data = BDDOIADataModule("lastframe", str(drawn_root), eval_batch_size=8)
    data.setup()
    batch = next(iter(data.val_dataloader()))
    said = describer.generate(describer.encode(batch), 1, greedy=True).texts
    assert [module.descriptions[name] for name in batch.ids] == [row[0] for row in said]
    module._encode(batch)
    assert asked[-1] == [f"{row[0]} {module.policy.prompts.decide}".strip() for row in said]
    prediction = module.predict_step(batch, 0)[0]
    assert prediction.description.startswith(said[0][0])


def test_each_scene_is_described_once(make_sft, describer, drawn_root, tmp_path):
    module, calls = make_sft("action", describer=describer), []
    generate = describer.generate
    describer.generate = lambda *args, **options: calls.append(1) or generate(*args, **options)
    fit(module, drawn_root, tmp_path, 3)
    # 16 + 8 scenes in batches of 8, however many epochs; shuffled batches may hold a few new scenes in the second.
    assert 3 <= len(calls) <= 6


def test_the_trained_policy_cannot_be_its_own_describer(make_sft, describer):
    with pytest.raises(ValueError, match="apart from policy"):
        ActionSFT(describer, describer=describer)
