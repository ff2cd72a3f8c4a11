"""What holds a policy, in the training loop: KL forms, refresh, rehearsal, reuse, and rewards that break."""

import math

import pytest
import torch
from letters import Letters
from lightning import Callback

from lvad.errors import BrokenReward, DataError
from lvad.estimators import A2C, GRPO, RLOO, SCST, BestOfN, MinimumRisk, Reinforce
from lvad.objectives import KL, Regularisation
from lvad.objectives.regularisation import AdaptiveKL
from lvad.types import Scores


def trained(module):
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


ESTIMATORS = [RLOO, Reinforce, lambda: Reinforce("running_mean"), SCST, GRPO, lambda: A2C(warmup_steps=1)]
ESTIMATORS += [BestOfN, MinimumRisk]


@pytest.mark.parametrize("make_estimator", ESTIMATORS)
def test_every_estimator_trains(fit, make_estimator):
    start = trained(fit(estimator=make_estimator(), dry=True)[0])
    module, watch, _ = fit(estimator=make_estimator(), steps=3, kl=KL(0.01))
    assert all(math.isfinite(value) for row in watch.rows for value in row.values())
    changed = {name for name, weights in trained(module).items() if not torch.equal(weights, start[name])}
    assert any("lora_" in name for name in changed)


def test_the_critic_has_its_own_rate_its_own_norm_and_a_warm_up(fit):
    module, watch, loop = fit(
        estimator=A2C(lr=0.02, warmup_steps=2, hidden_size=8), steps=3, trainer={"gradient_clip_val": 1e-9}
    )
    groups = loop.optimizers[0].param_groups
    assert [(group.get("name"), group["lr"]) for group in groups] == [(None, 3e-3), ("critic", 0.02)]
    assert watch.column("train/grad_norm")[:2] == [0.0, 0.0]  # the critic learns alone
    assert watch.column("train/grad_norm")[2] > 0
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.estimator.parameters() if p.grad is not None])
    assert norm > 1e-6  # it was not clipped with the policy


def test_a_critic_is_in_the_checkpoint_with_its_count(fit, tmp_path):
    module, _, loop = fit(estimator=A2C(warmup_steps=1), steps=2)
    loop.save_checkpoint(tmp_path / "a2c.ckpt")
    saved = torch.load(tmp_path / "a2c.ckpt", weights_only=True)["state_dict"]
    assert saved["estimator.num_steps"] == 2
    assert any(name.startswith("estimator.critic.") for name in saved)
    assert not any("base_layer" in name for name in saved)
    resumed, _, _ = fit(estimator=A2C(warmup_steps=1), steps=3, ckpt=tmp_path / "a2c.ckpt")
    assert resumed.estimator.num_steps == 3
    del module


@pytest.mark.parametrize("form", ["reward", *(pytest.param(name, marks=pytest.mark.slow) for name in ("k2", "k3"))])
def test_every_form_of_the_kl_holds_the_policy_back(fit, form):
    kls = {}
    for beta in (0.0, 1.0):
        _, watch, _ = fit(kl=KL(beta, form), steps=20, lora=False, trainer={"max_epochs": 5})
        kls[beta] = sum(watch.column("train/kl")[-6:])
    assert kls[1.0] < 0.6 * kls[0.0]


def test_a_weight_of_zero_measures_and_does_nothing(fit):
    free = trained(fit(steps=4)[0])
    measured, watch, _ = fit(kl=KL(0.0), steps=4)
    assert len(watch.column("train/kl")) == 4
    assert all(torch.equal(weights, free[name]) for name, weights in trained(measured).items())


def test_beta_is_steered_and_saved(fit, tmp_path):
    module, watch, loop = fit(kl=KL(0.1, target=1000.0), steps=3)
    expected = [0.1, 0.1 * 0.98, 0.1 * 0.98**2]  # far too near: a fifth of the rate at each batch
    assert watch.column("train/kl_beta") == pytest.approx(expected)
    assert module.kl.beta == pytest.approx(0.1 * 0.98**3)
    assert module.bfloat16().kl.beta == pytest.approx(0.1 * 0.98**3, rel=1e-12)  # as some strategies turn a module
    loop.save_checkpoint(tmp_path / "kl.ckpt")
    _, watch, _ = fit(kl=KL(0.1, target=1000.0), steps=4, ckpt=tmp_path / "kl.ckpt")
    assert watch.column("train/kl_beta") == pytest.approx([0.1 * 0.98**3])
    _, watch, _ = fit(kl=KL(0.3, target=1000.0), steps=4, ckpt=tmp_path / "kl.ckpt")
    assert watch.column("train/kl_beta") == pytest.approx([0.3])  # configured anew


@pytest.mark.parametrize("lora", [True, False])
def test_a_refreshed_reference_is_the_policy_and_outlives_a_checkpoint(fit, tmp_path, lora):
    _, watch, loop = fit(kl=KL(0.05, refresh_every=2), steps=3, lr=1e-2, lora=lora)
    start, moved, refreshed = watch.column("train/kl")
    assert start == pytest.approx(0, abs=1e-4)
    assert abs(moved) > 1e-3
    assert refreshed == pytest.approx(0, abs=1e-4)
    loop.save_checkpoint(tmp_path / "ref.ckpt")
    _, straight, _ = fit(kl=KL(0.05, refresh_every=2), steps=4, lr=1e-2, lora=lora)
    _, resumed, _ = fit(kl=KL(0.05, refresh_every=2), steps=4, lr=1e-2, lora=lora, ckpt=tmp_path / "ref.ckpt")
    assert len(resumed.rows) == 1
    assert resumed.column("train/kl")[0] != 0
    assert abs(resumed.column("train/kl")[0]) < 10 * abs(straight.column("train/kl")[3])


@pytest.mark.slow
def test_the_entropy_bonus_keeps_the_law_wide(fit):
    entropies = {}
    for bonus in (0.0, 1.0):
        options = Regularisation(entropy_bonus=bonus)
        _, watch, _ = fit(regularisation=options, steps=20, lora=False, trainer={"max_epochs": 5})
        entropies[bonus] = sum(watch.column("rollout/entropy")[-4:])
    assert entropies[1.0] > entropies[0.0] + 0.05


def test_reuse_takes_more_steps_with_the_same_rollouts(fit):
    """One count of the trainer, three optimizer steps: together they go further than one."""
    plain = trained(fit(steps=1)[0])
    start = trained(fit(dry=True)[0])
    again, watch, loop = fit(steps=1, regularisation=Regularisation(updates=3, clip_epsilon=0.2))
    assert loop.global_step == 1
    assert "train/clipped" in watch.rows[0]
    steps = {}
    for name, weights in trained(again).items():
        steps[name] = (weights - start[name]).norm() - (plain[name] - start[name]).norm()
    assert sum(steps.values()) > 0


def test_reuse_and_accumulation_exclude_each_other(fit):
    with pytest.raises(DataError, match="set one of them to 1"):
        fit(regularisation=Regularisation(updates=2), trainer={"accumulate_grad_batches": 2})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make_estimator", [RLOO, lambda: Reinforce("running_mean"), lambda: A2C(warmup_steps=0)])
def test_a_broken_reward_never_reaches_a_weight(fit, value, make_estimator):
    with pytest.raises(BrokenReward, match=r"completion 0: letters = (nan|inf|-inf)"):
        fit(Letters(value), estimator=make_estimator())
    module, watch, _ = fit(Letters(value), estimator=make_estimator(), regularisation=Regularisation(non_finite="drop"))
    assert watch.column("reward/dropped") == [1.0, 1.0]
    assert all(weights.isfinite().all() for weights in trained(module).values())
    assert all(math.isfinite(number) for row in watch.rows for number in row.values())


@pytest.mark.parametrize("make_estimator", ESTIMATORS)
@pytest.mark.parametrize("value", [1e6, -1e6, 0.0])
def test_an_outlier_leaves_weights_and_optimizer_finite(fit, make_estimator, value):
    options = Regularisation(reward_limit=5.0)
    module, watch, loop = fit(Letters(value), estimator=make_estimator(), regularisation=options)
    assert max(map(abs, watch.column("reward/mean"))) >= abs(value) / 20  # what is logged is not clipped
    assert max(watch.column("advantage/std")) <= 10
    assert all(weights.isfinite().all() for weights in trained(module).values())
    states = [part for state in loop.optimizers[0].state.values() for part in state.values()]
    assert all(part.isfinite().all() for part in states)


@pytest.mark.parametrize("make_estimator", [RLOO, SCST, GRPO, lambda: GRPO(False, False), MinimumRisk])
def test_a_constant_reward_teaches_nothing(fit, make_estimator):
    class Constant(torch.nn.Module):
        def score(self, batch, rollouts):
            return Scores(torch.full(rollouts.tokens.shape[:2], 0.7), {})

    start = trained(fit(dry=True)[0])
    module, watch, _ = fit(Constant(), estimator=make_estimator())
    assert watch.column("advantage/zero_spread") == [1.0, 1.0]
    assert all(torch.equal(weights, start[name]) for name, weights in trained(module).items())


def test_a_step_in_which_everything_breaks_moves_nothing(fit):
    class Broken(torch.nn.Module):
        def score(self, batch, rollouts):
            return Scores(torch.full(rollouts.tokens.shape[:2], math.nan), {})

    start = trained(fit(dry=True)[0])
    module, watch, _ = fit(Broken(), regularisation=Regularisation(non_finite="drop"))
    assert watch.column("reward/dropped") == [4.0, 4.0]
    assert all(torch.equal(weights, start[name]) for name, weights in trained(module).items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KL(-0.1), "kl.beta must be >= 0 and finite, got -0.1"),
        (lambda: KL(math.inf), "kl.beta must be >= 0 and finite"),
        (lambda: KL(form="k1"), "kl.form must be reward, k2 or k3"),
        (lambda: KL(target=0), "kl.target must be > 0"),
        (lambda: KL(0.0, target=1.0), "cannot steer a beta of 0"),
        (lambda: KL(rate=0), "kl.rate must be > 0"),
        (lambda: KL(refresh_every=0), "kl.refresh_every must be >= 1"),
        (lambda: Regularisation(entropy_bonus=-1), "entropy_bonus must be >= 0"),
        (lambda: Regularisation(updates=0), "updates must be >= 1"),
        (lambda: Regularisation(clip_epsilon=1.0), r"clip_epsilon must be in \(0, 1\)"),
        (lambda: Regularisation(reward_limit=0), "reward_limit must be > 0"),
        (lambda: Regularisation(non_finite="ignore"), "non_finite must be error or drop"),
    ],
)
def test_senseless_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class NothingGreedy(Letters):
    """Has no opinion on the greedy completion of a step's first scene."""

    def score(self, batch, rollouts):
        scores = super().score(batch, rollouts)
        if scores.total.shape[1] == 1:
            scores.total[0] = math.nan
        return scores


def test_a_scene_without_a_greedy_reward_is_dropped_and_counted(fit):
    module, watch, _ = fit(NothingGreedy(), estimator=SCST(), regularisation=Regularisation(non_finite="drop"))
    assert watch.column("reward/dropped") == [1.0, 1.0]
    assert all(math.isfinite(value) for value in watch.column("reward/greedy"))
    assert all(p.isfinite().all() for p in module.policy.parameters())


def test_a_reference_is_refreshed_after_so_many_optimizer_steps_and_not_rollouts(fit):
    """Every 3 steps, 2 steps a rollout: after the rollouts that end with steps 4 and 6, and not with 2 and 8."""
    kl = KL(0.05, refresh_every=3)
    refreshed = []
    control = AdaptiveKL(kl)
    for step in (2, 4, 6, 8):
        if control.is_due(step):
            refreshed.append(step)
            control.mark_refreshed(step)
    assert refreshed == [4, 6]
    module, _, _ = fit(kl=kl, steps=3, regularisation=Regularisation(updates=2))
    assert module.kl.refreshed_at == 4


def test_later_updates_of_a_rollout_leave_the_critic_alone(fit):
    """AdamW would go on moving weights whose gradients are zeros."""
    moved = []

    class Notes(Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            moved.append([p.detach().clone() for p in module.estimator.parameters()])

    fit(
        estimator=A2C(warmup_steps=0),
        steps=2,
        regularisation=Regularisation(updates=2),
        trainer={"callbacks": [Notes()]},
    )
    first, second, third, _ = ([p.sum().item() for p in step] for step in moved)
    assert first != second
    assert second == third
