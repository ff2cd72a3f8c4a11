import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import ArgumentParser
from layouts import FACTS, GO, GREEN, RED, STOP, flags, gt, lastframe, picture, write_video
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DistributedSampler

from lvad.commands.jsonargparse_patches import prefer_int_to_float
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.errors import DataError
from lvad.types import UNLABELLED, Batch


def ready(*parts, **options) -> BDDOIADataModule:
    data = BDDOIADataModule(*parts, **options)
    data.prepare_data()
    data.setup()
    return data


def sizes(data: BDDOIADataModule) -> dict[str, int]:
    return {split: len(scenes) for split, scenes in data.scenes.items()}


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    for split, count in (("train", 20), ("val", 4), ("test", 6)):
        rows = {f"{split}{i}": ((GO, GREEN), (STOP, RED), (STOP, flags(3, 7)))[i % 3] for i in range(count)}
        gt(tmp_path, split, rows)
    return str(tmp_path)


def test_splits_subset_and_limits(labelled: str) -> None:
    assert sizes(ready(Source("auto", labelled))) == {"train": 20, "val": 4, "test": 6}
    counts = SceneCounts(train=0.5, val=2)
    assert sizes(ready(Source("auto", labelled), Split(num_scenes=counts))) == {"train": 10, "val": 2, "test": 6}
    # Of 20, 4 and 6 rows in turns of three: 7 + 2 + 2 go (11) and 7 + 1 + 2 stop (10) with one reason.
    # Test takes ceil(2.2) + ceil(2.0) = 5 of 21; of the 8 + 8 others val takes 1 + 1.
    single = ready(Source("gt_4a_21r", labelled), Split(subset="single"))
    assert sizes(single) == {"train": 14, "val": 2, "test": 5}
    with pytest.raises(ValueError, match=r"num_scenes\.train must be between 0 and the 20"):
        ready(Source("auto", labelled), Split(num_scenes=SceneCounts(train=21)))


def test_batches(labelled: str) -> None:
    data = ready(Source("auto", labelled, image_size_px=8), batch_size=8, eval_batch_size=5)
    batches = list(data.train_dataloader())
    assert [len(batch.ids) for batch in batches] == [8, 8, 4]
    assert isinstance(batches[0], Batch)
    assert batches[0].frames[0].shape == (1, 3, 6, 8)
    assert [len(batch.ids) for batch in data.test_dataloader()] == [5, 1]
    assert [name for batch in data.val_dataloader() for name in batch.ids] == ["val0", "val1", "val2", "val3"]
    assert sum(len(batch.ids) for batch in data.predict_dataloader()) == 30


def orders(data: BDDOIADataModule, num_epochs: int = 2) -> list[list[str]]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, DistributedSampler)
    order = []
    for epoch in range(num_epochs):
        loader.sampler.set_epoch(epoch)
        order.append([name for batch in loader for name in batch.ids])
    return order


def test_the_order_depends_on_seed_and_epoch(labelled: str) -> None:
    first, second = orders(ready(Source("auto", labelled)))
    assert sorted(first) == sorted(second)
    assert first != second
    assert orders(ready(Source("auto", labelled))) == [first, second]
    assert orders(ready(Source("auto", labelled), seed=1), 1)[0] not in (first, second)


def test_balanced_epochs_have_as_many_draws_of_rare_and_common_actions(labelled: str) -> None:
    plain, balanced = (ready(Source("auto", labelled), balance=balance) for balance in (False, True))
    first, second = orders(balanced)
    assert [len(first), len(second)] == [20, 20]
    assert first != second
    assert orders(ready(Source("auto", labelled), balance=True)) == [first, second]
    assert orders(ready(Source("auto", labelled), balance=True, seed=1), 1)[0] not in (first, second)
    # 7 of 20 scenes go; drawn in balance a half do: of 2,000 draws 1,000, with a standard deviation of 22.
    actions = {scene.id: scene.actions for scene in balanced.scenes["train"]}
    drawn = [actions[name] for order in orders(balanced, 100) for name in order]
    assert abs(drawn.count(tuple(GO)) - 1000) < 110
    # Evaluation is left as it is.
    names = [[batch.ids for batch in data.test_dataloader()] for data in (plain, balanced)]
    assert names[0] == names[1]


def test_balanced_devices_share_one_order(labelled: str) -> None:
    shares = []
    for rank in range(2):
        data = ready(Source("auto", labelled), balance=True)
        data.trainer = SimpleNamespace(distributed_sampler_kwargs={"num_replicas": 2, "rank": rank})  # type: ignore[assignment]
        shares.append(orders(data, 1)[0])
    (alone,) = orders(ready(Source("auto", labelled), balance=True), 1)
    assert shares == [alone[0::2], alone[1::2]]


def test_scenes_without_labels_cannot_be_balanced(labelled: str) -> None:
    data = ready(Source("auto", labelled), Split(unlabelled=True), balance=True)
    with pytest.raises(DataError, match=r"20 of 20 training scenes have no actions to balance, first 'train0'"):
        data.train_dataloader()
    assert len(data.test_dataloader()) == 1


def test_workers_change_nothing(labelled: str) -> None:
    alone, helped = (ready(Source("auto", labelled), num_workers=n) for n in (0, 2))
    assert orders(alone) == orders(helped)
    assert helped.train_dataloader().persistent_workers
    assert not alone.train_dataloader().persistent_workers
    assert alone.train_dataloader().pin_memory == torch.cuda.is_available()


def test_devices_share_the_scenes_and_one_order(labelled: str) -> None:
    shares = []
    for rank in range(2):
        data = ready(Source("auto", labelled))
        data.trainer = SimpleNamespace(distributed_sampler_kwargs={"num_replicas": 2, "rank": rank})  # type: ignore[assignment]
        shares.append(orders(data, 1)[0])
    (alone,) = orders(ready(Source("auto", labelled)), 1)
    assert shares == [alone[0::2], alone[1::2]]


def test_unlabelled_hides_everything_in_train_alone(tmp_path: Path) -> None:
    root = lastframe(tmp_path, "train", [(f"a{i}_1.jpg", STOP, RED) for i in range(10)])
    lastframe(tmp_path, "test", [("b_1.jpg", STOP, RED)])
    facts = FACTS | {"light": "red"}
    for split, name in (("train", "a3"), ("test", "b")):
        line = {"id": name, "captions": ["A red light."], "facts": facts}
        (root / f"{split}_scenes.jsonl").write_text(json.dumps(line))
    data = ready(Source("auto", str(root)), Split(unlabelled=True))
    for batch in data.train_dataloader():
        assert batch.actions.unique().tolist() == batch.reasons.unique().tolist() == [UNLABELLED]
        assert set(batch.captions) == {()}
        assert set(batch.facts) == {None}
    assert all(scene[3:8] == (None, None, (), None, False) for scene in data.scenes["train"])
    (test,) = data.test_dataloader()
    assert (test.captions, test.facts) == ([("A red light.",)], [facts])
    assert test.actions.tolist() == [STOP]
    (val,) = data.val_dataloader()
    assert val.actions.tolist() == [STOP]
    assert "labels hidden" in data.summary()


def test_frames_without_labels(tmp_path: Path) -> None:
    for drive in "ab":
        for i in range(6):
            picture(tmp_path / drive / f"{i}.png")
    data = ready(Source("frames", str(tmp_path), num_frames=3))
    assert sizes(data) == {"train": 7, "val": 1, "test": 0}
    batch = next(iter(data.predict_dataloader()))
    assert batch.ids == [*(f"a/{i}" for i in range(6)), "b/0", "b/1"]
    assert [tuple(frames.shape) for frames in batch.frames[:4]] == [(m, 3, 12, 16) for m in (1, 2, 3, 3)]
    with pytest.raises(DataError, match="no test scenes"):
        data.test_dataloader()


def test_one_picture_can_be_predicted_on_one_device(tmp_path: Path) -> None:
    data = ready(Source("auto", str(picture(tmp_path / "a.png"))))
    assert [batch.ids for batch in data.predict_dataloader()] == [["a"]]
    assert data.val_dataloader() == []
    data.trainer = SimpleNamespace(world_size=2)  # type: ignore[assignment]
    with pytest.raises(DataError, match=r"1 scenes for 2 devices; add --trainer\.devices 1"):
        data.predict_dataloader()


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (BDDOIADataModule, "batch_size", 0),
        (BDDOIADataModule, "eval_batch_size", 0),
        (BDDOIADataModule, "num_workers", -1),
        (BDDOIADataModule, "seed", -1),
        (Source, "num_frames", 0),
        (Source, "drawing_seed", -1),
        (Source, "image_size_px", 0),
        (Source, "video_stream", -1),
    ],
)
def test_values_out_of_range(kind: type, option: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least"):
        kind(**{option: value})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_constructor_is_the_schema() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(BDDOIADataModule, "data")
    parsed = parser.parse_args(
        ["--data.source.format=auto", "--data.split.num_scenes.train=0.125", "--data.split.num_scenes.val=7"]
    )
    data = parser.instantiate_classes(parsed).data
    assert (data.source.format, data.split.num_scenes) == ("auto", SceneCounts(0.125, 7, None))
    assert BDDOIADataModule().summary() == "data/synthetic: not read yet"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("given", "source", "split"),
    [
        (["--data.source.root=other"], {"root": "other"}, {}),
        (["--data.source={root: other}"], {"root": "other"}, {}),
        (["--data.split.budget=null"], {}, {"budget": None}),
        (["--data.split.num_scenes.val=1.0"], {}, {"num_scenes": SceneCounts(None, 1.0, 7)}),
        (["--data.split.num_scenes", '{"val": 1}'], {}, {"num_scenes": SceneCounts(None, 1, 7)}),
        (["--data.source.num_drawn", '{"train": 9}'], {"num_drawn": SceneCounts(9, 2, None)}, {}),
    ],
)
def test_what_is_overridden_leaves_what_stands_beside_it(
    tmp_path: Path, given: list[str], source: dict, split: dict
) -> None:
    """In a group of a file, by one key, by a part of the group, and where a null is one of the values."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "data:\n  source: {root: drawn, num_frames: 3, num_drawn: {train: 5, val: 2}}\n"
        "  split: {budget: 4, rest: unlabelled, num_scenes: {test: 7}}\n  batch_size: 6\n"
    )
    prefer_int_to_float()
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(BDDOIADataModule, "data")
    data = parser.instantiate_classes(parser.parse_args(["--config", str(file), *given])).data
    before = {"root": "drawn", "num_frames": 3, "num_drawn": SceneCounts(5, 2, None)}
    chosen = {"budget": 4, "rest": "unlabelled", "num_scenes": SceneCounts(test=7)}
    assert (repr(data.source), repr(data.split)) == (repr(Source(**before | source)), repr(Split(**chosen | split)))
    assert data.batch_size == 6


def test_a_video_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data = BDDOIADataModule(Source("auto", str(write_video(tmp_path / "drive.mp4", 10, fps=10)), num_frames=2, fps=5))
    data.prepare_data()
    monkeypatch.setattr("av.open", lambda *_: pytest.fail("decoded twice"))
    data.setup()
    # 1 s at 5 pictures per second: windows of two end at pictures 1 to 4, the first picture stands alone.
    (batch,) = data.predict_dataloader()
    assert batch.ids == [f"drive/00000{i}" for i in range(5)]
    assert [tuple(frames.shape) for frames in batch.frames] == [(1, 3, 48, 64), *[(2, 3, 48, 64)] * 4]


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[str]] = []

    def training_step(self, batch: Batch) -> torch.Tensor:
        if len(self.seen) == self.current_epoch:
            self.seen.append([])
        self.seen[-1] += batch.ids
        return self.weight * batch.actions.float().sum()

    def validation_step(self, batch: Batch) -> None:
        assert isinstance(batch, Batch)

    def predict_step(self, batch: Batch) -> list[str]:
        return batch.ids

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("balance", [False, True])
def test_lightning_runs_every_stage_and_resumes_the_order(labelled: str, tmp_path: Path, balance: bool) -> None:
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path / "run",
    }
    whole, start, rest = Recorder(), Recorder(), Recorder()
    Trainer(max_epochs=3, enable_checkpointing=False, **quiet).fit(
        whole, BDDOIADataModule(Source("auto", labelled), balance=balance)
    )
    trainer = Trainer(max_epochs=1, **quiet)
    trainer.fit(start, BDDOIADataModule(Source("auto", labelled), balance=balance))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    rest.seen = [*start.seen]
    second = Trainer(max_epochs=3, enable_checkpointing=False, **quiet)
    second.fit(rest, BDDOIADataModule(Source("auto", labelled), balance=balance), ckpt_path=tmp_path / "one.ckpt")
    assert rest.seen == whole.seen
    assert whole.seen[0] != whole.seen[1]
    predicted = Trainer(**quiet).predict(whole, BDDOIADataModule(Source("auto", labelled), balance=balance))
    assert sum(map(len, predicted or [])) == 30
