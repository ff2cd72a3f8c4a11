"""FixMatch: which scenes are taught what, in which step."""

import pytest
import torch
from lightning import Trainer

from lvad.answers.answer_probabilities import AnswerProbabilities, action_set_logps, all_action_sets
from lvad.answers.decision import questions
from lvad.answers.describer import DescriptionOptions
from lvad.data.augment import mirror_batch
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import Split
from lvad.errors import DataError
from lvad.modules import ActionSFT
from lvad.objectives import FixMatch
from lvad.policy import HFPolicy, Sampling
from lvad.policy.grammar import AnswerGrammar
from lvad.types import UNLABELLED


@pytest.fixture(scope="module")
def policy(vlm_folder):
    torch.manual_seed(0)
    return HFPolicy(str(vlm_folder), Sampling(max_new_tokens=150), lora=None).eval()


@pytest.fixture
def data(drawn_root):
    data = BDDOIADataModule(Source("lastframe", str(drawn_root)), Split(budget=4), batch_size=4)
    data.setup()
    return data


def test_a_step_takes_scenes_of_the_pool_in_turn(data):
    """12 scenes of the pool, 3 for each of 2 labelled ones: every scene once in two steps, without labels."""
    batches = [FixMatch().batch_at(data, step, 2, 0, 1) for step in range(2)]
    assert {name for batch in batches for name in batch.ids} == {scene.id for scene in data.pool}
    assert all((batch.actions == UNLABELLED).all() for batch in batches)
    data.pool = []
    with pytest.raises(DataError, match=r"no training scenes without labels; set data\.split\.budget"):
        FixMatch().batch_at(data, 0, 2, 0, 1)


def test_the_weak_view_labels_what_it_is_sure_of(policy, data):
    """Whether it is the scene or its mirror, whose sides are exchanged back."""
    batch = FixMatch().batch_at(data, 0, 2, 0, 1)
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        is_mirrored = bool(torch.rand(()) < 0.5)
        view = mirror_batch(batch) if is_mirrored else batch
        with torch.no_grad():
            sets = action_set_logps(policy, policy.encode(view, questions(policy, [""] * len(batch.ids))))
        sets = AnswerProbabilities(sets, None).mirrored().action_sets if is_mirrored else sets
        probability, choice = sets.exp().max(-1)
        threshold = probability.sort().values[3].item() - 1e-6  # of six scenes the three surest
        torch.manual_seed(seed)
        taught, values = FixMatch(threshold=threshold)._pseudo_label(policy, batch, None, False)
        sure = [i for i in range(6) if probability[i] >= threshold]
        assert taught.ids == [batch.ids[i] for i in sure]
        assert len(sure) == 3
        assert values["fixmatch/kept"].item() == pytest.approx(0.5)
        assert taught.actions.tolist() == all_action_sets(4)[choice[sure]].tolist()
        seen.add(is_mirrored)
    assert seen == {False, True}


def test_the_denominator_is_all_unlabelled_scenes_and_nothing_sure_is_no_loss(policy, data):
    batch = FixMatch().batch_at(data, 0, 2, 0, 1)
    torch.manual_seed(0)
    loss, values = FixMatch(threshold=1.0).loss(policy, batch, None, False, 8.0)
    assert loss.item() == values["fixmatch/loss"].item() == values["fixmatch/kept"].item() == 0
    torch.manual_seed(0)
    loss, values = FixMatch(threshold=0.0, weight=2.0).loss(policy, batch, AnswerGrammar(True), True, 20.0)
    assert loss.requires_grad
    assert loss.item() == pytest.approx(2 * values["fixmatch/loss"].item())
    assert values["fixmatch/kept"].item() == 1


def test_it_begins_after_its_share_of_the_steps_and_its_loss_is_learnt(vlm_folder, drawn_root, tmp_path):
    torch.manual_seed(0)
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=40), lora=None, freeze_vision=False)
    module = ActionSFT(policy, "action", fixmatch=FixMatch(threshold=0.0, begin=0.5, per_labelled=1))
    logged = []
    module.log_dict = lambda values, **_: logged.append({k: v for k, v in values.items() if k.startswith("fixmatch")})
    trainer = Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, BDDOIADataModule(Source("lastframe", str(drawn_root)), Split(budget=4), batch_size=4))
    assert [len(values) for values in logged] == [0, 0, 3, 3]


def test_what_means_nothing_is_refused(vlm_folder):
    for options in ({"weight": 0.0}, {"per_labelled": 0}, {"begin": 1.0}):
        with pytest.raises(ValueError, match="weight must be > 0, per_labelled at least 1 and begin in"):
            FixMatch(**options)
    with pytest.raises(ValueError, match="threshold must be"):
        FixMatch(threshold=2.0)
    with pytest.raises(ValueError, match="min_area"):
        FixMatch(min_area=0.0)
    policy = HFPolicy(str(vlm_folder))
    for target, style in (("caption", None), ("action", DescriptionOptions())):
        with pytest.raises(ValueError, match="fixmatch for those from frames alone"):
            ActionSFT(policy, target, describe=style, fixmatch=FixMatch())
