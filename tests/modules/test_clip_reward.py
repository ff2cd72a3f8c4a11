"""The reward's stage: it learns what it is shown, refuses what it cannot learn from, and keeps what it chose."""

import copy

import open_clip
import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from PIL import Image

from lvad.data.augment import Augment
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.pairs import candidates
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.errors import DataError
from lvad.evaluation.clip_similarity import interpolated_weights
from lvad.facts import contradicts
from lvad.losses.contrastive import info_nce, matching_bce, ranking_loss
from lvad.modules import CLIPReward
from lvad.objectives.clip_losses import PairLosses, corrupted_loss, own_texts
from lvad.rewards.clip import CLIP
from lvad.taxonomy import BDD_OIA
from lvad.text import mirror_text
from lvad.types import UNLABELLED


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3)


@pytest.fixture
def make_reward(clip_folder):
    def make(**options):
        seed_everything(0, verbose=False)
        return CLIPReward(CLIP(str(clip_folder)), optimizer=adamw, **options)

    return make


def fit(module, root, tmp_path, max_epochs, callbacks=(), **options):
    trainer = Trainer(
        accelerator="cpu", max_epochs=max_epochs, default_root_dir=tmp_path, logger=False, callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks), enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=-1,
    )  # fmt: skip
    trainer.fit(module, BDDOIADataModule(Source("lastframe", str(root)), batch_size=8, **options))
    return trainer, {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    "kind", ["reason", *(pytest.param(name, marks=pytest.mark.slow) for name in ("action", "output"))]
)
def test_it_learns_which_texts_are_true(make_reward, drawn_root, tmp_path, kind):
    """Of the scenes that it is shown: sixteen are too few for others."""
    module = make_reward(kind=kind)
    trainer, _ = fit(module, drawn_root, tmp_path, 15)
    after = trainer.validate(module, trainer.datamodule.train_dataloader(), verbose=False)[0]
    before = trainer.validate(make_reward(kind=kind), trainer.datamodule.train_dataloader(), verbose=False)[0]
    assert after["val/auroc"] > before["val/auroc"] + 0.1
    assert after["val/score_right"] > after["val/score_wrong"]
    expected = {"accuracy", "precision", "recall", "f1", "auroc_floor", "auroc_per_text", "loss"}
    assert {f"val/{name}" for name in expected} <= set(after)


def test_captions_teach_without_labels(make_reward, drawn_root, tmp_path):
    module = make_reward(losses=PairLosses(bce=0.0, contrastive=1.0))
    _, metrics = fit(module, drawn_root, tmp_path, 2)
    assert metrics["train/loss"] < 3


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"bce": 0.0}, "one of them > 0"),
        ({"contrastive": -1.0}, ">= 0"),
        ({"corrupted": {"translate": 1.0}}, r"got \['translate'\]"),
    ],
)
def test_losses_that_make_no_sense(weights, message):
    with pytest.raises(ValueError, match=message):
        PairLosses(**weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_negatives": 0}, "num_negatives must be at least 1"), ({"wise_ft": [1.0]}, r"shares in \[0, 1\)")],
)
def test_options_out_of_range(make_reward, options, message):
    with pytest.raises(ValueError, match=message):
        make_reward(**options)


def test_scenes_without_labels_and_an_empty_budget_are_refused(make_reward, drawn_root, tmp_path):
    with pytest.raises(DataError, match="scenes without reasons, which text kind 'reason' needs"):
        fit(make_reward(), drawn_root, tmp_path, 1, split=Split(unlabelled=True))
    with pytest.raises(DataError, match="no train scenes"):
        fit(make_reward(), drawn_root, tmp_path, 1, split=Split(num_scenes=SceneCounts(train=0)))


def test_one_training_loss_by_hand(make_reward, drawn_root):
    """All weights at once, with the draws repeated from the same random state."""
    module = make_reward(losses=PairLosses(0.7, 0.3, 0.4, {"shuffle": 0.2, "repeat": 0.1}), num_negatives=2)
    module.log = lambda *args, **kwargs: None
    batch = first_batch(drawn_root)
    torch.manual_seed(5)
    loss = module.training_step(batch, 0)
    torch.manual_seed(5)
    images, scale = module.clip.embed_frames(batch.frames), module.clip.logit_scale
    found = candidates("reason", batch)
    cosines = images @ module.clip.embed_texts(list(BDD_OIA.reason_texts)).T
    expected = 0.7 * matching_bce(cosines, found.is_true, found.is_false, scale, num_negatives=2)
    sided = [
        (cosines[b, r], cosines[b, m])
        for b in range(8)
        for r, m in enumerate(BDD_OIA.mirrored_reasons)
        if batch.reasons[b, r] and not batch.reasons[b, m]
    ]
    better, worse = (torch.stack(side) for side in zip(*sided, strict=True))
    expected = expected + 0.4 * ranking_loss(better, worse, scale)
    texts, _ = own_texts(batch, "reason")
    own = module.clip.embed_texts(texts)
    expected = expected + 0.3 * info_nce(images, own, scale)
    truths = [[t for t, flag in zip(BDD_OIA.reason_texts, row, strict=True) if flag] for row in batch.reasons.tolist()]
    rows = [i for i in range(8) if contradicts(mirror_text(texts[i]), truths[i])]
    assert rows
    other = module.clip.embed_texts([mirror_text(texts[i]) for i in rows])
    better, worse = (images[rows] * own[rows]).sum(1), (images[rows] * other).sum(1)
    expected = expected + 0.4 * ranking_loss(better, worse, scale)
    expected = expected + corrupted_loss(module.clip, images, batch, "reason", {"shuffle": 0.2, "repeat": 0.1})
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def first_batch(root):
    data = BDDOIADataModule(Source("lastframe", str(root)), batch_size=8)
    data.setup()
    return next(iter(data.val_dataloader()))


def test_corruptions_weigh_in_proportion(make_reward, drawn_root):
    clip, batch = make_reward().clip, first_batch(drawn_root)
    images = clip.embed_frames(batch.frames)
    values = []
    for factor in (1.0, 3.0):
        torch.manual_seed(0)
        values.append(corrupted_loss(clip, images, batch, "reason", {"shuffle": factor, "remove": factor}))
    torch.testing.assert_close(values[1], 3 * values[0])


def test_scenes_without_a_text_to_spoil_leave_no_weight_without_a_gradient(make_reward, drawn_root):
    """On several devices a weight that takes no part in a loss is an error."""
    module = make_reward(losses=PairLosses(bce=0.0, corrupted={"shuffle": 1.0}))
    module.log = lambda *args, **kwargs: None
    batch = first_batch(drawn_root)
    batch = batch._replace(captions=[()] * 8, reasons=torch.zeros_like(batch.reasons))
    loss = module.training_step(batch, 0)
    assert loss == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters() if p.requires_grad)


def test_texts_of_labels_stand_in_for_captions_and_true_ones_take_no_part(drawn_root):
    batch = first_batch(drawn_root)._replace(captions=[()] * 8)
    texts, is_wrong = own_texts(batch, "reason")
    for i in range(8):
        for j in range(8):
            if is_wrong[i, j]:
                assert batch.reasons[i, BDD_OIA.reason_texts.index(texts[j])] == 0
    assert is_wrong.any()


def test_blended_weights_are_interpolated_and_given_back(make_reward):
    clip = make_reward().clip
    start = {name: p.detach().clone() for name, p in clip.named_parameters()}
    with torch.no_grad():
        for p in clip.parameters():
            p.add_(1.0)
    tuned = copy.deepcopy(clip.state_dict())
    with interpolated_weights(clip, start, 0.25):
        for name, p in clip.named_parameters():
            torch.testing.assert_close(p, start[name] + 0.25)
    with pytest.raises(RuntimeError, match="inside"), interpolated_weights(clip, start, 0.0):
        raise RuntimeError("inside")
    assert all(torch.equal(value, tuned[name]) for name, value in clip.state_dict().items())


def test_the_share_with_the_best_auroc_is_kept_tested_and_exported(make_reward, drawn_root, tmp_path):
    """The start is better than weights made of noise: validation must choose it."""
    module = make_reward(wise_ft=[0.0, 0.5])
    start = copy.deepcopy(module.clip.state_dict())
    checkpoint = ModelCheckpoint(tmp_path, "best", monitor="val/auroc", mode="max")
    module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=1e-3)
    trainer, _ = fit(module, drawn_root, tmp_path, 1, [checkpoint])
    with torch.no_grad():
        for p in module.clip.parameters():
            p.add_(torch.randn_like(p))
    scores = trainer.validate(module, trainer.datamodule, verbose=False)[0]
    shares = [0.0, 0.5, 1.0]
    by_share = {}
    for share in shares:
        other = make_reward()
        other.clip.load_state_dict(module.clip.state_dict())
        with interpolated_weights(other.clip, {k: start[k] for k in dict(other.clip.named_parameters())}, share):
            other.clip = copy.deepcopy(other.clip)
        by_share[share] = trainer.validate(other, trainer.datamodule, verbose=False)[0]["val/auroc"]
    assert scores["val/auroc"] == pytest.approx(max(by_share.values()), abs=1e-4)
    share = scores["val/wise_ft_share"]
    assert by_share[share] == pytest.approx(max(by_share.values()), abs=1e-4)
    noisy = copy.deepcopy(module.clip.state_dict())
    module.export(tmp_path / "model")
    for name, value in CLIP(str(tmp_path / "model")).state_dict().items():
        torch.testing.assert_close(value, torch.lerp(start[name], noisy[name], share) if share < 1 else noisy[name])


def test_a_checkpoint_keeps_share_and_calibration(make_reward, drawn_root, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "last")
    module = make_reward(wise_ft=[0.5], freeze_vision=True)
    fit(module, drawn_root, tmp_path, 1, [checkpoint])
    kept = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    for name in ("share", "calibration", "start_calibration"):
        assert torch.equal(kept[name], getattr(module, name))
    assert not any("visual.transformer" in name for name in kept)
    assert kept["calibration"][0] != module.clip.logit_scale


def test_table_1_compares_with_the_start_weights(make_reward, drawn_root, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "best", monitor="val/auroc", mode="max")
    trainer, _ = fit(make_reward(), drawn_root, tmp_path, 2, [checkpoint])
    module = make_reward()
    scores = trainer.test(module, trainer.datamodule, ckpt_path=checkpoint.best_model_path, verbose=False)[0]
    assert {"test/auroc", "test/accuracy", "test/f1", "test/precision", "test/recall"} <= set(scores)
    table = module.report[0]
    names = [row[0] for row in table.rows]
    assert names == [
        *(f"image vs. {side} {kind}" for kind in ("reason", "action", "output") for side in ("right", "wrong")),
        "image vs. '123'",
        "image vs. 'abc'",
    ]
    assert all(len(row) == len(table.columns) == 7 for row in table.rows)
    # The cosine of "123" before tuning, from the untouched model.
    start, batches = make_reward().clip, list(trainer.datamodule.test_dataloader())
    with torch.no_grad():
        cosine = torch.cat([start.embed_frames(b.frames) @ start.embed_texts(["123"])[0] for b in batches]).mean()
    assert float(table.rows[6][1]) == pytest.approx(cosine.item(), abs=6e-4)
    assert table.rows[6][1] != table.rows[6][4]


def test_an_unlabelled_kind_is_left_out_of_table_1(make_reward, drawn_root):
    batch = first_batch(drawn_root)
    module = make_reward(kind="action")
    bare = batch._replace(reasons=torch.full_like(batch.reasons, UNLABELLED))
    for when in ("before", "after"):
        module.similarity.update(when, module.clip, bare)
    rows = module.similarity.table(module.start_calibration, module.calibration).rows
    assert [row[0] for row in rows] == [
        "image vs. right action", "image vs. wrong action", "image vs. '123'", "image vs. 'abc'",
    ]  # fmt: skip


def test_the_rate_falls_when_auroc_stands_still(make_reward, drawn_root, tmp_path):
    module = make_reward()
    module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=1e-12)
    module.lr_scheduler = lambda optimizer: ReduceLROnPlateau(
        optimizer, monitor="val/auroc", mode="max", factor=0.2, patience=1
    )
    trainer, _ = fit(module, drawn_root, tmp_path, 4)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.2e-12)


def test_augmented_training_runs_and_the_export_is_plain_open_clip(make_reward, drawn_root, tmp_path):
    module = make_reward(augment=Augment(), losses=PairLosses(1.0, 0.5, 0.5, {"swap": 0.1}))
    fit(module, drawn_root, tmp_path, 1)
    module.export(tmp_path / "model")
    plain, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'model'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'model'}")(["a car", "road is clear"])
    frame = first_batch(drawn_root).frames[0][:1]
    picture = transform(Image.fromarray(frame[0].permute(1, 2, 0).numpy()))[None]
    with torch.no_grad():
        expected = plain.encode_image(picture, normalize=True) @ plain.encode_text(tokens, normalize=True).T
        actual = module.clip.embed_frames([frame]) @ module.clip.embed_texts(["a car", "road is clear"]).T
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
