"""No policy is trained on a reward that cannot tell right from wrong, unless one insists."""

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import ALL_SCENES, SceneCounts, Split
from lvad.errors import RewardRefused
from lvad.evaluation.reward_check import audit_reward, validation_scenes
from lvad.facts import claims, is_true
from lvad.modules import RLOOPolicy
from lvad.policy import HFPolicy, Lora, Sampling
from lvad.types import Scores


class Oracle(torch.nn.Module):
    """Knows the facts: the share of what a text claims that is true."""

    def score(self, batch, rollouts):
        return scored(
            [[self.judge(facts, t) for t in row] for facts, row in zip(batch.facts, rollouts.texts, strict=True)]
        )

    def judge(self, facts, text):
        said = claims(text)
        return sum(is_true(claim, facts) for claim in said) / len(said) if said else -1.0


class LikesLong(torch.nn.Module):
    def score(self, batch, rollouts):
        return scored([[float(len(text)) for text in row] for row in rollouts.texts])


def scored(rows):
    total = torch.tensor(rows)
    return Scores(total, {"judge": total})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    from lvad.data.synthetic import write_synthetic

    root = tmp_path_factory.mktemp("audited") / "drawn"
    write_synthetic(root, num_train=8, num_val=24, num_test=0, progress=False)
    return str(root)


def fit(policy_folder, root, tmp_path, reward, audit, num_scenes=ALL_SCENES):
    seed_everything(0, verbose=False)
    policy = HFPolicy(str(policy_folder), Sampling(max_new_tokens=4), lora=Lora(rank=2))
    module = RLOOPolicy(policy, reward, num_completions=2, kl=None, audit=audit)
    trainer = Trainer(
        accelerator="cpu", max_steps=1, default_root_dir=tmp_path, logger=CSVLogger(tmp_path), num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        log_every_n_steps=1,
    )  # fmt: skip
    split = Split(unlabelled=True, num_scenes=num_scenes)
    trainer.fit(module, BDDOIADataModule(Source("lastframe", root), split, batch_size=4))
    return trainer


def test_a_reward_that_likes_length_is_refused_by_name(vlm_folder, root, tmp_path):
    with pytest.raises(
        RewardRefused, match=r"cannot tell right from wrong on 24 .*failed: .*all_21.*set model\.init_args\.audit"
    ):
        fit(vlm_folder, root, tmp_path, LikesLong(), "refuse")


def test_it_may_be_insisted_upon(vlm_folder, root, tmp_path):
    with pytest.warns(UserWarning, match="cannot tell right from wrong"):
        assert fit(vlm_folder, root, tmp_path, LikesLong(), "warn").global_step == 1
    assert fit(vlm_folder, root, tmp_path, LikesLong(), "off").global_step == 1


def test_a_reward_that_knows_trains_and_its_probes_are_logged(vlm_folder, root, tmp_path):
    trainer = fit(vlm_folder, root, tmp_path, Oracle(), "refuse")
    assert trainer.global_step == 1
    trainer.logger.save()
    logged = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "audit/other_scene" in logged
    assert "audit/digits" in logged


def test_too_few_scenes_prove_nothing_and_stop_nothing(vlm_folder, root, tmp_path):
    with pytest.warns(UserWarning, match="was not audited"):
        fit(vlm_folder, root, tmp_path, LikesLong(), "refuse", num_scenes=SceneCounts(val=4))


def test_what_is_known_of_the_scenes_decides_what_is_asked(vlm_folder, root):
    data = BDDOIADataModule(Source("lastframe", root), Split(num_scenes=SceneCounts(val=12)), eval_batch_size=5)
    data.setup()
    scenes = validation_scenes(data)
    assert [len(batch.ids) for batch in scenes] == [5, 5, 2]
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=4), lora=None)
    labelled = [batch._replace(captions=[()] * len(batch.ids)) for batch in scenes]
    nothing = [b._replace(reasons=torch.full_like(b.reasons, -1), facts=[None] * len(b.ids)) for b in labelled]
    for batches, texts in ((scenes, "caption"), (labelled, "reason"), (nothing, "given")):
        assert audit_reward(policy, LikesLong(), batches, torch.device("cpu")).texts == texts


def test_other_data_is_not_looked_into():
    assert validation_scenes(None) == []
