"""Which scenes a run has seen: kept from its first step on, carried by what goes on from it, asked before a test."""

from types import SimpleNamespace

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from lvad.assets import CHECKPOINTS
from lvad.commands.last_checkpoint import LastCheckpoint
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.ledger import LEDGER, dump_ledger, labelled_ids, read_ledger
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.errors import DataError
from lvad.report.recorder import RunRecorder
from lvad.report.scenes_seen import seen_by


class Holds(LightningModule):
    """Stands on a model that an earlier stage exported."""

    def __init__(self, folder):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.part = torch.nn.Identity()
        self.part.source = str(folder)

    def training_step(self, batch, batch_idx):
        return self.layer(torch.ones(1)).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/reward", 0.5)

    def test_step(self, batch, batch_idx):
        self.log("test/reward", 0.5)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def export(self, folder):
        (folder / "weight.txt").write_text(repr(self.layer.weight.item()))


def test_a_test_on_scenes_that_an_earlier_stage_saw_is_refused(tmp_path, drawn_root):
    """The leak is planted in the model that the stage starts from; the ledger travels with what is exported."""
    data = BDDOIADataModule(Source("lastframe", str(drawn_root)), Split(unlabelled=True))
    data.setup()
    leaked, folder = data.scenes["test"][3].id, tmp_path / "reward"
    folder.mkdir()
    quiet = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**quiet, logger=False, callbacks=[RunRecorder(str(tmp_path / "run"))], default_root_dir=tmp_path)
    trainer.fit(Holds(folder), data)
    ledger = read_ledger(tmp_path / "run" / "model")
    assert ledger == read_ledger(tmp_path / "run")
    assert {use: len(ids) for use, ids in ledger.items()} == {"Holds train, unlabelled": 16, "Holds val, labelled": 8}
    trainer.test(Holds(folder), data, verbose=False)
    (folder / LEDGER).write_text(dump_ledger({"CLIPReward train, labelled": [leaked]}))
    with pytest.raises(DataError, match=f"1 test scenes were seen before, as CLIPReward train, labelled: .*{leaked}"):
        trainer.test(Holds(folder), data, verbose=False)


def fit_on(root, data, name="run", ckpt=None, **options):
    """A fit of a plain stage whose run lies in ``root / name``."""
    folder = root / name
    trainer = Trainer(
        accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[RunRecorder(str(folder)), LastCheckpoint()], **options,
    )  # fmt: skip
    trainer.fit(Holds(root / "model"), data, ckpt_path=ckpt)
    return folder


def scenes_of(drawn_root, **split):
    data = BDDOIADataModule(Source("lastframe", str(drawn_root)), Split(**split))
    data.setup()
    return data


def test_a_fit_that_never_ended_has_its_ledger(tmp_path, drawn_root):
    """Also in its checkpoint, should the file be lost."""
    data = scenes_of(drawn_root)

    class Breaks(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.current_epoch:
                raise KeyError("the power went")

    folder = tmp_path / "run"
    callbacks = [RunRecorder(str(folder)), LastCheckpoint(), Breaks()]
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(**quiet, default_root_dir=folder, callbacks=callbacks, max_epochs=2)
    with pytest.raises(KeyError):
        trainer.fit(Holds(tmp_path / "model"), data)
    assert {use: len(ids) for use, ids in read_ledger(folder).items()} == {
        "Holds train, labelled": 16, "Holds val, labelled": 8,
    }  # fmt: skip
    data.scenes["test"] = data.scenes["train"][:2]
    for _ in range(2):
        test = Trainer(**quiet, default_root_dir=folder, callbacks=[RunRecorder(str(folder)), LastCheckpoint()])
        with pytest.raises(DataError, match="2 test scenes were seen before, as Holds train, labelled"):
            test.test(Holds(tmp_path / "model"), data, ckpt_path=folder / "checkpoints/last.ckpt", verbose=False)
        (folder / LEDGER).unlink(missing_ok=True)


def test_a_run_resumed_on_other_scenes_remembers_the_first_ones(tmp_path, drawn_root):
    first = scenes_of(drawn_root, num_scenes=SceneCounts(train=4))
    others = scenes_of(drawn_root)
    others.scenes["train"] = others.scenes["train"][-4:]
    seen = {scene.id for data in (first, others) for scene in data.scenes["train"]}
    assert len(seen) > 4
    folder = fit_on(tmp_path, first, max_epochs=1)
    last = folder / "checkpoints/last.ckpt"
    elsewhere = fit_on(tmp_path, others, "elsewhere", last, max_epochs=2)
    assert {*read_ledger(elsewhere)["Holds train, labelled"]} == seen
    fit_on(tmp_path, others, max_epochs=1)  # anew, in the folder of the first
    assert {*read_ledger(folder)["Holds train, labelled"]} == seen


def test_a_checkpoint_of_which_nobody_knows_is_refused(tmp_path, drawn_root):
    data = scenes_of(drawn_root)
    folder = fit_on(tmp_path, data, max_epochs=1)
    last = folder / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    del content["callbacks"]["RunRecorder"]["ledger"]
    torch.save(content, last)
    (folder / LEDGER).unlink()
    unknown = r"last\.ckpt: nothing tells which scenes the run has seen; restore it, or run the stage again"
    with pytest.raises(DataError, match=unknown):
        fit_on(tmp_path, data, "again", last, max_epochs=2)
    test = Trainer(accelerator="cpu", logger=False, callbacks=[RunRecorder(str(folder))], enable_checkpointing=False)
    with pytest.raises(DataError, match=unknown):
        test.test(Holds(tmp_path / "model"), data, ckpt_path=last, verbose=False)


def test_what_a_checkpoint_calls_a_ledger_must_be_one(tmp_path, drawn_root):
    data = scenes_of(drawn_root)
    last = fit_on(tmp_path, data, max_epochs=1) / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    content["callbacks"]["RunRecorder"]["ledger"] = {"Holds train": 7}
    torch.save(content, last)
    with pytest.raises(DataError, match=r"last\.ckpt: 'Holds train' must be a list of scene ids; restore"):
        fit_on(tmp_path, data, ckpt=last, max_epochs=2)


def test_a_judges_labels_are_not_the_models_budget_but_its_scenes_are_no_test(tmp_path, drawn_root):
    class Judged(Holds):
        @property
        def built_on(self):
            return self.layer

    data = BDDOIADataModule(Source("lastframe", str(drawn_root)), Split(unlabelled=True))
    data.setup()
    folder = tmp_path / "judge"
    folder.mkdir()
    (folder / LEDGER).write_text(dump_ledger({"CLIPReward train, labelled": [data.scenes["test"][0].id]}))
    quiet = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**quiet, logger=False, callbacks=[RunRecorder(str(tmp_path / "run"))], default_root_dir=tmp_path)
    trainer.fit(Judged(folder), data)
    assert not any(use.startswith("CLIPReward") for use in read_ledger(tmp_path / "run"))
    with pytest.raises(DataError, match="CLIPReward train, labelled"):
        trainer.test(Judged(folder), data, verbose=False)


@pytest.mark.parametrize(("budget", "counts"), [(None, True), (4, False)])
def test_a_held_out_judge_costs_its_labels_where_there_is_something_to_choose_by(tmp_path, drawn_root, budget, counts):
    """And a reward always: embedded/clip-reward was tuned and chosen on 1,400 + 200 labelled scenes."""

    class Rewarded(Holds):
        def __init__(self, reward, judge):
            super().__init__(reward)
            self.judge = torch.nn.Identity()
            self.judge.source = str(judge)

    (tmp_path / LEDGER).write_text(dump_ledger({"CLIPReward train, labelled": ["of the judge"]}))
    data = scenes_of(drawn_root, budget=budget)
    seen = seen_by(data, Rewarded(CHECKPOINTS / "clip-reward", tmp_path))
    assert ("of the judge" in labelled_ids(seen)) == counts
    own = len(data.scenes["train"]) + len(data.scenes["val"])
    assert len(labelled_ids(seen)) == 1600 + own + counts


def test_true_descriptions_count_as_labels_of_their_own(drawn_root):
    module = Holds("nowhere")
    module.describer = SimpleNamespace(is_oracle=True)
    seen = seen_by(scenes_of(drawn_root), module)
    assert {use: len(ids) for use, ids in seen.items()} == {
        "Holds oracle descriptions train, labelled": 16, "Holds train, labelled": 16, "Holds val, labelled": 8,
    }  # fmt: skip
    module.describer.is_oracle = False
    assert not any("oracle" in use for use in seen_by(scenes_of(drawn_root), module))
