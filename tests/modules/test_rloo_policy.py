"""The main stage as a LightningModule."""

import pytest
import torch
from lightning import Trainer, seed_everything

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import ALL_SCENES, SceneCounts, Split
from lvad.modules import RLOOPolicy
from lvad.objectives import KL
from lvad.policy import HFPolicy, Lora, Sampling
from lvad.rewards import CLIPCosine
from lvad.types import Scores


class CountsCars(torch.nn.Module):
    """A judge with a known preference: the share of "a" among the letters."""

    def score(self, batch, rollouts):
        share = [[text.count("a") / max(len(text), 1) for text in row] for row in rollouts.texts]
        total = torch.tensor(share)
        return Scores(total, {"letters": total})


class Constant(torch.nn.Module):
    def score(self, batch, rollouts):
        total = torch.full(rollouts.tokens.shape[:2], 0.25)
        return Scores(total, {"constant": total})


@pytest.fixture
def make_module(vlm_folder):
    def make(reward, kl=None, lr=1e-2, lora=True, options=None, **policy):
        seed_everything(0, verbose=False)
        policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=6), lora=Lora(rank=4) if lora else None, **policy)
        optimizer = lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=0.0)  # noqa: E731
        options = {"num_completions": 4, "audit": "off"} | (options or {})
        return RLOOPolicy(policy, reward, kl=kl, optimizer=optimizer, **options)

    return make


def make_trainer(tmp_path, **options):
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    return Trainer(accelerator="cpu", default_root_dir=tmp_path, **(quiet | options))


def data(root, num_scenes=ALL_SCENES, batch_size=4, **options):
    split = Split(unlabelled=True, num_scenes=num_scenes)
    return BDDOIADataModule(Source("lastframe", str(root)), split, batch_size, **options)


def watch(module, name):
    """The values of one name that every step logs."""
    seen = []
    module.log_dict = lambda values, **_: seen.extend(values[key].item() for key in [name] if key in values)
    return seen


def test_reward_rises_on_a_judge_with_a_known_preference(make_module, drawn_root, tmp_path):
    module = make_module(CountsCars(), lr=3e-3, lora=False)
    seen = watch(module, "reward/mean")
    make_trainer(tmp_path, max_epochs=12, limit_val_batches=0).fit(module, data(drawn_root))
    assert len(seen) == 48
    assert sum(seen[-6:]) > 2 * sum(seen[:6])


def test_a_judge_without_an_opinion_moves_nothing(make_module, drawn_root, tmp_path):
    """Equal rewards give zero advantages, so the gradient is exactly zero and the weights stay."""
    module = make_module(Constant())
    before = [p.detach().clone() for p in module.parameters()]
    make_trainer(tmp_path, max_steps=3, limit_val_batches=0).fit(module, data(drawn_root))
    assert all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


@pytest.mark.slow
def test_strong_kl_holds_the_policy_at_its_start(make_module, drawn_root, tmp_path):
    """The KL of the last updates, by its own estimate, is smaller the heavier it weighs."""
    kls = {}
    for beta in (1e-6, 1.0):
        module = make_module(CountsCars(), kl=KL(beta), lr=3e-3, lora=False)
        seen = watch(module, "train/kl")
        make_trainer(tmp_path, max_epochs=6, limit_val_batches=0).fit(module, data(drawn_root))
        assert seen[0] == pytest.approx(0, abs=1e-3)  # the policy starts as its reference
        kls[beta] = sum(seen[-6:])
    assert kls[1.0] < 0.5 * kls[1e-6]


def test_only_the_adapters_change(make_module, clip_folder, drawn_root, tmp_path):
    module = make_module(CLIPCosine(str(clip_folder)), kl=KL(0.1))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    make_trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(module, data(drawn_root))
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


def test_labels_of_training_scenes_are_out_of_reach(drawn_root):
    source = data(drawn_root)
    source.setup("fit")
    for batch in source.train_dataloader():
        assert (batch.actions == -1).all()
        assert (batch.reasons == -1).all()
        assert batch.captions == [()] * len(batch.ids)
        assert batch.facts == [None] * len(batch.ids)


def test_checkpoint_holds_what_is_trained_and_no_more(make_module, clip_folder, drawn_root, tmp_path):
    module = make_module(CLIPCosine(str(clip_folder)))
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0, enable_checkpointing=True)
    trainer.fit(module, data(drawn_root))
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    saved = torch.load(tmp_path / "some.ckpt", weights_only=True)["state_dict"]
    assert set(saved) == {name for name, p in module.named_parameters() if p.requires_grad}
    fresh = make_module(CLIPCosine(str(clip_folder)))
    trainer = make_trainer(tmp_path)
    trainer.validate(fresh, data(drawn_root), ckpt_path=tmp_path / "some.ckpt", weights_only=True, verbose=False)
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, dict(module.named_parameters())[name])


def test_validation_logs_reward_and_facts_and_leaves_the_random_state_alone(
    make_module, clip_folder, drawn_root, tmp_path
):
    module = make_module(CLIPCosine(str(clip_folder)))
    step = module.validation_step

    def watched(batch, batch_idx):
        state = torch.random.get_rng_state()
        step(batch, batch_idx)
        assert torch.equal(state, torch.random.get_rng_state())

    module.validation_step = watched
    (metrics,) = make_trainer(tmp_path).validate(module, data(drawn_root), verbose=False)
    assert {"val/reward", "val/fact_precision", "val/fact_recall", "val/length", "val/reward_clip"} <= set(metrics)
    assert [len(sample.texts) for sample in module.samples] == [4] * 4
    assert sum(module.samples[0].advantages) == pytest.approx(0, abs=1e-5)


def test_greedy_descriptions_do_not_depend_on_the_batch_size(make_module, clip_folder, drawn_root, tmp_path):
    def describe(size):
        module = make_module(CLIPCosine(str(clip_folder)))
        rows = make_trainer(tmp_path).predict(module, data(drawn_root, eval_batch_size=size))
        return {p.id: (p.description, round(p.reward, 4)) for batch in rows for p in batch}

    assert describe(3) == describe(32)


def test_full_training_with_kl_keeps_a_reference(make_module, drawn_root, tmp_path):
    module = make_module(CountsCars(), kl=KL(0.1), lora=False, freeze_vision=False)
    make_trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(module, data(drawn_root))
    assert not any("_reference" in name for name in module.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_completions": 1}, "num_completions must be >= 2"),
    ],
)
def test_senseless_values_are_refused(vlm_folder, options, message):
    with pytest.raises(ValueError, match=message):
        RLOOPolicy(HFPolicy(str(vlm_folder)), Constant(), **options)


def test_a_subset_of_a_run_is_a_subset(drawn_root):
    source = data(drawn_root, num_scenes=SceneCounts(train=0.5))
    source.setup("fit")
    assert len(source.scenes["train"]) == 8


def test_a_judge_left_open_by_its_author_is_not_trained(make_module):
    judge = Constant()
    judge.weight = torch.nn.Parameter(torch.ones(3))
    module = make_module(judge)
    assert not judge.weight.requires_grad
    optimizer = module.configure_optimizers()
    assert not any(p is judge.weight for group in optimizer.param_groups for p in group["params"])
