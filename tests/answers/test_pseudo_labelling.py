"""What is sure enough to be a label, and how sure it should be."""

import math

import pytest
import torch
from answered import FORWARD, NO_REASON, NOTHING, REASON, STOP, scene
from lightning import Trainer

from lvad.answers import PseudoLabels, Voting
from lvad.answers.answer_probabilities import all_action_sets
from lvad.answers.pseudo_labelling import AnswerWithProbability, calibration_on, confident_labels, set_probability
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.ledger import read_ledger
from lvad.data.pseudo_labels import PSEUDO_LABELS, PseudoLabel, read_pseudo_labels
from lvad.data.source import Source
from lvad.data.split import Split
from lvad.modules import ActionSFT
from lvad.policy import HFPolicy, Sampling
from lvad.report.recorder import RunRecorder


def test_the_probability_is_that_of_the_set_which_was_answered():
    """Not of the most probable one: a decision may be another."""
    logps = torch.full((2, 16), 0.04 / 14)
    stop, left = (all_action_sets(4).tolist().index(row) for row in ([0, 1, 0, 0], [0, 0, 1, 0]))
    logps[:, stop], logps[:, left] = 0.7, 0.26
    found = set_probability(logps.log(), torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0]]))
    assert found.tolist() == pytest.approx([0.26, 0.7], abs=1e-6)


def said(name, probability, answer=STOP, true=STOP, **changed):
    return AnswerWithProbability(scene(name, answer, true, **changed), probability)


def test_only_sure_and_valid_answers_become_labels():
    answers = [
        said("sure", 0.95, reasons=REASON), said("edge", 0.9), said("unsure", 0.89),
        said("broken", 0.99, is_valid=False),
    ]  # fmt: skip
    assert confident_labels(answers, None, 0.9) == {
        "sure": PseudoLabel(STOP, REASON, 0.95),
        "edge": PseudoLabel(STOP, NO_REASON, 0.9),
    }


def test_probabilities_are_calibrated_before_the_threshold():
    """sigmoid(0.5 logit(0.95) + 0) = sqrt(19) / (1 + sqrt(19)) = 0.8134."""
    platt = torch.tensor([0.5, 0.0], dtype=torch.float64)
    found = confident_labels([said("a", 0.95)], platt, 0.8)
    assert found["a"].probability == pytest.approx(math.sqrt(19) / (1 + math.sqrt(19)), abs=1e-6)
    assert confident_labels([said("a", 0.95)], platt, 0.82) == {}


def test_a_model_that_is_too_sure_is_believed_less():
    """It says 0.99 of what is right three times in four."""
    answers = [said(str(i), 0.99 - 0.001 * (i % 3), true=FORWARD if i % 4 == 0 else STOP) for i in range(40)]
    platt = calibration_on(answers)
    assert platt is not None
    (label,) = confident_labels([said("new", 0.989)], platt, 0.0).values()
    assert label.probability == pytest.approx(0.75, abs=0.03)


def test_without_right_and_wrong_answers_nothing_is_calibrated():
    assert calibration_on([]) is None
    assert calibration_on([said("a", 0.9), said("b", 0.8)]) is None
    assert calibration_on([said("a", 0.9, true=NOTHING)]) is None
    assert calibration_on([said("a", 0.9, true=None)]) is None


def test_a_fit_leaves_labels_for_the_pool_beside_its_model(vlm_folder, drawn_root, tmp_path):
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=150), lora=None)
    module = ActionSFT(policy, "answer", constrain=True, voting=Voting(mirrored=True), pseudo_labels=PseudoLabels(0.0))
    data = BDDOIADataModule(Source("lastframe", str(drawn_root)), Split(budget=4), batch_size=4, eval_batch_size=6)
    trainer = Trainer(
        accelerator="cpu", max_steps=1, logger=False, callbacks=[RunRecorder(str(tmp_path))], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data)
    labels = read_pseudo_labels(tmp_path / "model" / PSEUDO_LABELS)
    assert set(labels) == {scene.id for scene in data.pool}
    assert len(labels) == 12
    assert all(0 <= label.probability <= 1 for label in labels.values())
    counts = {use: len(ids) for use, ids in read_ledger(tmp_path / "model").items()}
    assert counts == {"ActionSFT pool train, unlabelled": 12, "ActionSFT train, labelled": 4}
    student = BDDOIADataModule(
        Source("lastframe", str(drawn_root)), Split(budget=4, pseudo_labels=str(tmp_path / "model" / PSEUDO_LABELS))
    )
    student.setup()
    assert len(student.scenes["train"]) == 16


def test_a_threshold_is_a_probability():
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\], got 2"):
        PseudoLabels(2)
