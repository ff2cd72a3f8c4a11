"""Scenes with a label set of their own, and what was made with another one: refused by name."""

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn

from lvad.data.augment import Augment, mirror_batch
from lvad.data.check import check_source
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.pairs import candidates
from lvad.data.source import Source
from lvad.data.split import Split
from lvad.data.synthetic import write_synthetic
from lvad.errors import DataError
from lvad.report.recorder import RunRecorder
from lvad.taxonomy import BDD_OIA, FILE, Action, Reason, Taxonomy, dump_taxonomy, find_taxonomy, load_taxonomy
from lvad.taxonomy.compatibility import check_folder_taxonomy, folder_taxonomy
from lvad.types import UNLABELLED

LANES = load_taxonomy("lanes")


@pytest.fixture(scope="module")
def lanes_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("lanes") / "drawn"
    write_synthetic(root, 12, 6, 6, size_px=32, progress=False, taxonomy=LANES)
    return root


@pytest.fixture
def data(lanes_root):
    data = BDDOIADataModule(Source("lastframe", str(lanes_root)), taxonomy="lanes", batch_size=12)
    data.setup()
    return data


def test_a_batch_has_the_labels_of_its_set(data):
    batch = next(iter(data.train_dataloader()))
    assert batch.taxonomy == LANES
    assert batch.actions.shape == (12, 3)
    assert batch.reasons.shape == (12, 6)
    found = candidates("output", batch)
    assert found.texts[:2] == ("Action: wait. Reason: red light.", "Action: wait. Reason: person crossing.")
    assert len(found.texts) == 18
    turned = mirror_batch(batch)
    assert torch.equal(turned.actions, batch.actions[:, [0, 2, 1]])
    assert torch.equal(turned.reasons, batch.reasons[:, [0, 1, 4, 5, 2, 3]])
    assert torch.equal(mirror_batch(turned).reasons, batch.reasons)


def test_scenes_without_labels_have_as_many_unknown_ones(lanes_root):
    data = BDDOIADataModule(Source("lastframe", str(lanes_root)), Split(unlabelled=True), taxonomy="lanes")
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.taxonomy == LANES
    assert batch.reasons.tolist() == [[UNLABELLED] * 6] * 8


def test_a_check_counts_its_labels(lanes_root):
    report = check_source(lanes_root, taxonomy=LANES)
    assert report.errors == []
    assert list(report.actions["train"]) == ["wait", "left lane", "right lane"]
    assert list(report.reasons["test"]) == list(LANES.reason_keys)
    assert sum(report.splits.values()) == 24
    (error,) = check_source(lanes_root).errors
    assert "was made with the label set 'lanes', the data have 'bdd_oia': actions of 'lanes' alone: 'wait'" in error


def test_a_drawn_set_with_other_labels_is_refused(lanes_root, drawn_root):
    with pytest.raises(DataError, match="made with the label set 'lanes', the data have 'bdd_oia'"):
        BDDOIADataModule(Source("synthetic", str(lanes_root))).prepare_data()
    with pytest.raises(DataError, match="made with the label set 'bdd_oia', the data have 'lanes'"):
        BDDOIADataModule(Source("synthetic", str(drawn_root)), taxonomy="lanes").prepare_data()


def test_a_label_that_a_mirrored_scene_cannot_have_is_named(data):
    one_sided = Taxonomy("one", [Action("go", 0)], [Reason("l", "no lane on the left", 0, False, 0)])
    batch = next(iter(data.train_dataloader()))._replace(taxonomy=one_sided)
    with pytest.raises(
        DataError, match=r"'no lane on the left' of the label set 'one' names a side .*mirror_probability"
    ):
        Augment()(batch)
    Augment(mirror_probability=0.0)(batch)


class Holds(LightningModule):
    """Stands on an exported model, and exports nothing but a file."""

    def __init__(self, folder):
        super().__init__()
        self.layer, self.part = nn.Linear(1, 1), nn.Identity()
        self.part.source = str(folder)

    def training_step(self, batch, batch_idx):
        return self.layer(torch.ones(1)).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def export(self, folder):
        (folder / "weight.txt").write_text("")


def trainer(folder):
    quiet = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**quiet, logger=False, callbacks=[RunRecorder(str(folder))], default_root_dir=folder.parent)


def test_a_run_and_its_model_hold_the_set_and_refuse_another(tmp_path, data, drawn_root):
    run, model = tmp_path / "run", tmp_path / "run" / "model"
    first = trainer(run)
    first.fit(Holds("hub/model"), data)
    assert find_taxonomy(run) == find_taxonomy(model) == LANES
    checkpoint = tmp_path / "last.ckpt"
    first.save_checkpoint(checkpoint)
    other = BDDOIADataModule(Source("lastframe", str(drawn_root)))
    said = "made with the label set 'lanes', the data have 'bdd_oia': actions of 'lanes' alone: 'wait', .*data.taxonomy"
    with pytest.raises(DataError, match=f"{model}: was {said}"):
        trainer(tmp_path / "next").fit(Holds(model), other)
    with pytest.raises(DataError, match=f"{run}: was {said}"):
        trainer(run).fit(Holds("hub/model"), other)
    with pytest.raises(DataError, match=f"the checkpoint: was {said}"):
        trainer(tmp_path / "next").fit(Holds("hub/model"), other, ckpt_path=checkpoint)


def test_what_holds_no_set_is_let_pass_and_a_broken_file_is_named(tmp_path):
    check_folder_taxonomy(tmp_path, LANES)
    assert folder_taxonomy(tmp_path) == BDD_OIA
    (tmp_path / FILE).write_text(dump_taxonomy(LANES).replace("left_free", "right_free"))
    with pytest.raises(DataError, match=f"{tmp_path / FILE}: .*restore the file, or run the stage again"):
        check_folder_taxonomy(tmp_path, LANES)
