"""The answers' stage: it learns what it is shown, and refuses what it cannot learn from."""

import os
from dataclasses import replace

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lvad.answers.describer import DescriptionOptions
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.modules import ActionSFT
from lvad.objectives.text_objectives import CrossEntropy
from lvad.policy import HFPolicy, Lora, Sampling
from lvad.report.answers_file import read_answers
from lvad.report.recorder import RunRecorder
from lvad.rewards import CLIPCosine
from lvad.taxonomy import BDD_OIA


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3)


def fit(module, root, tmp_path, max_epochs, **options):
    trainer = Trainer(
        accelerator="cpu", max_epochs=max_epochs, default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, BDDOIADataModule(Source("lastframe", str(root)), batch_size=8, **options))
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.fixture
def make_sft(vlm_folder):
    def make(target, lora=None, **options):
        seed_everything(0, verbose=False)
        policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=40), lora=lora, freeze_vision=lora is not None)
        return ActionSFT(policy, target, optimizer=adamw, **options)

    return make


@pytest.mark.parametrize(
    "target", ["answer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("action", "caption"))]
)
def test_answers_are_learnt(make_sft, drawn_root, tmp_path, target):
    module = make_sft(target, num_targets=2 if target == "caption" else 1)
    before = fit(module, drawn_root, tmp_path, 1)
    after = fit(module, drawn_root, tmp_path, 6)
    assert after["val/loss"] < 0.8 * before["val/loss"]
    expected = (
        {"val/fact_precision", "val/bleu4", "val/rouge_l"}
        if target == "caption"
        else {"val/action_macro_f1", "val/parse_failure"}
    )
    assert expected <= set(after)


def test_a_likelihood_needs_the_models_own_law(vlm_folder):
    policy = HFPolicy(str(vlm_folder), Sampling(temperature=1.5))
    with pytest.raises(ValueError, match="temperature 1, top_k 0, top_p 1"):
        ActionSFT(policy)


def test_scenes_without_labels_are_refused_by_name(make_sft, drawn_root, tmp_path):
    with pytest.raises(ValueError, match="has no labels; set data"):
        fit(make_sft("action"), drawn_root, tmp_path, 1, split=Split(unlabelled=True))
    with pytest.raises(ValueError, match=r"scene .* has no text to learn or to compare with; give it a text"):
        fit(make_sft("caption"), drawn_root, tmp_path, 1, split=Split(unlabelled=True))


def test_constrained_answers_are_always_valid(make_sft, drawn_root, tmp_path):
    """Of random weights too, which write nothing that can be read by themselves."""
    for constrain, failure in ((False, 1.0), (True, 0.0)):
        module = make_sft("answer", constrain=constrain)
        module.policy.sampling = replace(module.policy.sampling, max_new_tokens=150)
        assert fit(module, drawn_root, tmp_path, 1)["val/parse_failure"] == failure


def validation(data_root):
    data = BDDOIADataModule(Source("lastframe", str(data_root)), eval_batch_size=8)
    data.setup()
    return next(iter(data.val_dataloader()))


def says(policy, batch):
    return [row[0] for row in policy.generate(policy.encode(batch), 1, greedy=True).texts]


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_descriptions_are_stage_ones_before_and_after_training(make_sft, vlm_folder, drawn_root, tmp_path, lora):
    batch = validation(drawn_root)
    seed_everything(0, verbose=False)
    stage_one = says(HFPolicy(str(vlm_folder), Sampling(max_new_tokens=40), lora=None).eval(), batch)
    module = make_sft("action", describe=DescriptionOptions(), lora=lora)
    asked = []
    encode = module.policy.encode
    module.policy.encode = lambda batch, questions=None: asked.append(questions) or encode(batch, questions)
    fit(module, drawn_root, tmp_path, 3)
    module.describer.restore_descriptions({})
    assert module.describer.describe(module.policy, batch, is_training=False) == stage_one
    assert says(module.policy, batch) != stage_one  # what was trained says something else
    module.eval()._encode(batch)
    assert asked[-1] == [f"{text} {module.policy.prompts.question(BDD_OIA)}" for text in stage_one]


@pytest.mark.slow
def test_a_greedy_description_is_made_once_and_a_sampled_one_at_every_step(make_sft, drawn_root, tmp_path):
    counts = {}
    for sampled in (False, True):
        module = make_sft("action", describe=DescriptionOptions(sampled))
        with module.policy.as_reference() as start:
            calls, generate = [], start.generate
            start.generate = lambda *args, calls=calls, generate=generate, **options: (
                calls.append(options["greedy"]) or generate(*args, **options)
            )
        fit(module, drawn_root, tmp_path, 3)
        counts[sampled] = calls.count(True), calls.count(False)
    # 16 training scenes in batches of 8 for 3 epochs, and 8 validation scenes in one. A shuffled batch of the second
    # epoch holds scenes that are known.
    assert counts == {False: (3, 0), True: (1, 6)}


def test_both_stages_travel_together_and_the_first_is_as_it_was(make_sft, vlm_folder, drawn_root, tmp_path):
    module = make_sft("action", describe=DescriptionOptions(), lora=Lora(rank=4))
    fit(module, drawn_root, tmp_path, 2)
    module.export(tmp_path / "model")
    start = HFPolicy(str(tmp_path / "model"), lora=None).state_dict()
    for name, value in HFPolicy(str(vlm_folder), lora=None).state_dict().items():
        torch.testing.assert_close(start[name], value, rtol=0, atol=1e-7)
    assert (tmp_path / "model" / "answer" / "adapter_model.safetensors").is_file()


def test_the_share_of_supervised_tokens_is_that_of_the_answers(make_sft, drawn_root, tmp_path):
    module, logged = make_sft("action"), []
    logger = CSVLogger(tmp_path)
    logger.log_metrics = lambda metrics, step=None: logged.append(metrics)
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, BDDOIADataModule(Source("lastframe", str(drawn_root)), batch_size=8))
    (share,) = [values["train/supervised_share"] for values in logged if "train/supervised_share" in values]
    assert 0.02 < share < 0.3  # an answer of some ten tokens behind a prompt of about a hundred


def test_balanced_decisions_name_rarer_actions_and_leave_the_probabilities(make_sft, drawn_root):
    module, batch = make_sft("action", constrain=True).eval(), validation(drawn_root)
    plain = module._answer(batch, module._encode(batch), with_probabilities=True)
    # Forward nearly always true, left nearly never: every decision moves towards left.
    module.action_shares.copy_(torch.tensor([0.999, 0.5, 0.001, 0.5]))
    module.logit_adjustment = 5.0
    balanced = module._answer(batch, module._encode(batch), with_probabilities=True)
    assert all(scene.actions[0] == 0 and scene.actions[2] == 1 and scene.is_valid for scene in balanced)
    for one, other in zip(plain, balanced, strict=True):
        assert one.action_probabilities == pytest.approx(other.action_probabilities, abs=1e-6)


def test_class_weights_come_from_the_training_labels(make_sft, drawn_root, tmp_path):
    module = make_sft("action", objective=CrossEntropy(class_weights=True))
    fit(module, drawn_root, tmp_path, 1)
    weights = torch.tensor(list(module.scene_weights.values()))
    assert len(weights) == 16
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights.max() > weights.min() > 0
    data = BDDOIADataModule(Source("lastframe", str(drawn_root)))
    data.setup()
    shares = torch.tensor([scene.actions for scene in data.scenes["train"]]).float().mean(0)
    torch.testing.assert_close(module.action_shares, shares)


def test_a_test_has_probabilities_a_judge_and_a_report(make_sft, clip_folder, drawn_root, tmp_path):
    module = make_sft("answer", constrain=True, judge=CLIPCosine(str(clip_folder)))
    module.policy.sampling = replace(module.policy.sampling, max_new_tokens=150)
    trainer = Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    (scores,) = trainer.test(
        module, BDDOIADataModule(Source("lastframe", str(drawn_root)), eval_batch_size=8), verbose=False
    )
    assert {"test/action_auroc", "test/reason_auroc", "test/clip_score", "test/clip_match"} <= set(scores)
    assert {len(scene.reason_probabilities) for scene in module.answered} == {21}
    assert not any(name.startswith("judge") for name, p in module.named_parameters() if p.requires_grad)


def on_a_rank(rank, store, vlm_folder, clip_folder, root, run_dir):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    # As torchrun has it; the port is not used, for the group is there already.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "test"}
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=20), lora=None)
    module = ActionSFT(policy, judge=CLIPCosine(str(clip_folder)))
    data = BDDOIADataModule(Source("lastframe", str(root)), Split(num_scenes=SceneCounts(test=5)), eval_batch_size=2)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", logger=False, callbacks=[RunRecorder(str(run_dir))],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    (scores,) = trainer.test(module, data, verbose=False)
    torch.save((scores, module.answered, module.report), run_dir / f"{rank}.pt")


@pytest.mark.slow
def test_ranks_score_and_write_each_scene_once(vlm_folder, clip_folder, drawn_root, tmp_path):
    """Of 5 scenes rank 1 has two and, so that it has as many as rank 0, the first one again."""
    context = torch.multiprocessing.get_context("spawn")
    given = (tmp_path / "store", vlm_folder, clip_folder, drawn_root, tmp_path)
    ranks = [context.Process(target=on_a_rank, args=(rank, *given)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    assert found[0] == found[1]
    scores, answered, report = found[0]
    written = read_answers(tmp_path / "answers.jsonl")
    assert written == answered
    assert len({scene.id for scene in written}) == len(written) == 5
    assert report[0].title.startswith("Scores on 5 test scenes")
    stop = sum(scene.true_actions == (0, 1, 0, 0) for scene in written) / 5
    assert scores["test/always_stop/action_exact_match"] == pytest.approx(stop)
    assert "test/clip_score" in scores


def test_what_means_nothing_is_refused(make_sft):
    for options in ({"describe": DescriptionOptions()}, {"logit_adjustment": 1.0}):
        with pytest.raises(ValueError, match="no description before it and no decision"):
            make_sft("caption", **options)
