"""The Lightning data module of every stage."""

import json
from functools import partial
from hashlib import sha256
from typing import Any, Final

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from lvad.data.collate import SceneDataset, collate
from lvad.data.ledger import Ledger, merge_ledgers, stage_ledger, stream_ledger
from lvad.data.loaders import OrderKey, ResumableLoader, evaluation_loader
from lvad.data.pseudo_labels import ledger_of_labels
from lvad.data.reading import Reading
from lvad.data.samplers import BalancedSampler, EpochSampler, scene_weights
from lvad.data.shard_dataset import ShardDataset, ShardSampler
from lvad.data.shards import ShardFolder
from lvad.data.source import Source, at_least
from lvad.data.split import ALL_SCENES, Split, streamed_whole
from lvad.errors import DataError
from lvad.taxonomy import Taxonomy, load_taxonomy, parse_taxonomy
from lvad.taxonomy.compatibility import check_same_taxonomy
from lvad.types import Scene

SYNTHETIC_SOURCE: Final = Source()
SOURCE_SPLIT: Final = Split()


class BDDOIADataModule(LightningDataModule):
    """The data module: it reads the scenes of a source, splits them, and loads them in batches.

    Args:
        source: what the scenes are read from.
        split: which of them train, validate and test, and which keep their labels.
        batch_size: scenes per training step and device.
        eval_batch_size: scenes per batch elsewhere; ``batch_size`` if None.
        num_workers: processes that decode; 0 decodes in the training process.
        seed: seeds the order of the training scenes and the choice of the scenes of a split.
        balance: draw the training scenes with replacement, as many as there are, each in inverse proportion to the
            share of its rarest action, so that single actions come equally often (``lvad.ops.action_weights``). Do not
            combine it with class weights in the loss, which correct the same a second time.
        taxonomy: which actions and reasons there are: a ``.yaml`` file, or the name of a set that ships with lvad.

    Raises:
        ValueError: for a value out of range, footage with another choice of training scenes, or a label set that
            contradicts itself.
    """

    def __init__(
        self,
        source: Source = SYNTHETIC_SOURCE,
        split: Split = SOURCE_SPLIT,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        balance: bool = False,
        taxonomy: str = "bdd_oia",
    ) -> None:
        super().__init__()
        self.source, self.split, self.balance = source, split, balance
        self.batch_size = at_least(1, batch_size, "batch_size")
        eval_size = batch_size if eval_batch_size is None else eval_batch_size
        self.eval_batch_size = at_least(1, eval_size, "eval_batch_size")
        self.num_workers = at_least(0, num_workers, "num_workers")
        self.seed = at_least(0, seed, "seed")
        self.taxonomy: Taxonomy = load_taxonomy(taxonomy)
        if source.shard_urls:
            split.check_streamed()
            if balance:
                raise ValueError(streamed_whole("balance"))
        self.shards: list[ShardFolder] = []
        self.reading: Reading | None = None
        self.predicted: Reading | None = None
        """The scenes to predict; its ``errors`` name what had to be left out."""
        self.scenes: dict[str, list[Scene]] = {}
        self.pool: list[Scene] = []
        """Training scenes whose labels are not used, with the labels removed. No loader of this module gives them."""

    def prepare_data(self) -> None:
        """Draw the synthetic set, or decode videos, once per node."""
        self.source.prepare(self.split.num_scenes, self.taxonomy)

    def setup(self, stage: str | None = None) -> None:
        """Read and split the scenes; ``fit``, ``validate`` and ``test`` see the same ones.

        ``predict`` reads every scene that can be decoded, whatever its split.

        Raises:
            DataError: if anything on disk cannot be used (``predict``: if nothing can), or ``num_scenes`` asks for more
                than there is.
        """
        if stage == "predict":
            self.predicted = self.source.read_for_prediction(self.taxonomy)
        elif self.reading is None:
            self.reading = self.source.read(self.taxonomy)
        if self.reading is not None and not self.scenes and stage != "predict":
            self._split(self.reading)
        if not self.shards and stage in (None, "fit"):
            self.shards = [ShardFolder(url) for url in self.source.shard_urls]
        rank_zero_info(self.summary())

    def _split(self, reading: Reading) -> None:
        counts = self.split.num_scenes
        if synthetic := self.source.synthetic_set(counts):
            synthetic.check(reading)
            # Of a part of the synthetic scenes there are fewer than were drawn.
            if self.split.subset == "all" and self.source.num_drawn == ALL_SCENES:
                counts = synthetic.counts
        self.scenes, self.pool = self.split.divide(reading, counts, self.seed, self.taxonomy)
        if self.source.shard_urls:
            self.scenes["train"], self.pool = [], []

    def state_dict(self) -> dict[str, Any]:
        """Return the label set, to be compared when the checkpoint is loaded."""
        return {"taxonomy": self.taxonomy.as_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint of a run with other labels.

        Raises:
            DataError: naming the difference.
        """
        check_same_taxonomy(parse_taxonomy(state_dict["taxonomy"]), self.taxonomy, "the checkpoint")

    def stage_ledger(self, stage: str) -> Ledger:
        """Return the ledger of a stage that is fitted on these scenes."""
        file = self.split.label_file
        made = ledger_of_labels(file) if file else {}
        return merge_ledgers([stage_ledger(stage, self.scenes), stream_ledger(stage, self.shards), made])

    def train_dataloader(self) -> DataLoader:
        """Load the training scenes, shuffled or balanced by seed and epoch; the last batch may be smaller.

        Raises:
            DataError: without training scenes, with fewer of footage than devices, or where scenes to balance have no
                labels.
        """
        if self.shards:
            stream = ShardDataset(self.shards, self.source.num_frames, self.source.image_size_px)
            order_key = self._order_key(len(stream), [shards.digest for shards in self.shards])
            sampler = ShardSampler(stream.counts, self.seed, **self._replica_options())
            return self._loader(stream, sampler, self.batch_size, order_key)
        scenes = self._scenes_of("train")
        replica = self._replica_options()
        # The sampler adds the epoch to the seed: room for 4,096 epochs before two seeds meet.
        seed = self.seed << 12
        if self.balance:
            sampler = BalancedSampler(scene_weights(scenes), seed, **replica)
        else:
            sampler = EpochSampler(len(scenes), seed, **replica)
        return self._loader(
            scenes, sampler, self.batch_size, self._order_key(len(scenes), [scene.id for scene in scenes])
        )

    def _order_key(self, num_scenes: int, names: list[str]) -> OrderKey:
        """Return what the order of an epoch depends on, by the names that a user knows."""
        digest = sha256(json.dumps(names).encode()).hexdigest()[:12]
        known = {"data.seed": self.seed, "data.balance": self.balance, "the number of training scenes": num_scenes}
        return {**known, "the digest of their names": digest}

    def _replica_options(self) -> dict[str, int]:
        """Return ``num_replicas`` and ``rank`` of this device, as samplers take them."""
        replica = (self.trainer and self.trainer.distributed_sampler_kwargs) or {"num_replicas": 1, "rank": 0}
        return {name: replica[name] for name in ("num_replicas", "rank")}

    def val_dataloader(self) -> DataLoader | list:
        """Load the validation scenes in order, each once over all devices; an empty list where there are none."""
        return self._evaluation_loader(self.scenes["val"]) if self.scenes["val"] else []

    def test_dataloader(self) -> DataLoader:
        """Load the test scenes in order, each once over all devices."""
        return self._evaluation_loader(self._scenes_of("test"))

    def _evaluation_loader(self, scenes: list[Scene]) -> DataLoader:
        items = SceneDataset(scenes, self.source.num_frames, self.source.image_size_px)
        return evaluation_loader(items, self.eval_batch_size, self.num_workers, self._replica_options(), self.taxonomy)

    def predict_dataloader(self) -> DataLoader:
        """Load every scene of ``root`` in order, whatever its split; every frame of a sequence ends a scene.

        Raises:
            DataError: with fewer scenes than devices, which Lightning cannot distribute.
        """
        self.predicted = self.predicted or self.source.read_for_prediction(self.taxonomy)
        scenes = self.predicted.scenes
        num_devices = self.trainer.world_size if self.trainer else 1
        if num_devices > max(1, len(scenes)):
            raise DataError(f"{len(scenes)} scenes for {num_devices} devices; add --trainer.devices 1")
        return self._loader(scenes, SequentialSampler(scenes), self.eval_batch_size)

    def summary(self) -> str:
        """Describe what was read, used and left out, in one line per fact."""
        reading = self.reading or self.predicted
        if reading is None:
            return f"{self.source.path}: not read yet"
        notes = [str(self.split.label_budget)] if self.split.label_budget else []
        streams = [f"training scenes streamed, without labels: {shards}" for shards in self.shards]
        return reading.summary(self.source.path, self.scenes, self.split.unlabelled, notes, streams)

    def _scenes_of(self, split: str) -> list[Scene]:
        if not self.scenes[split]:
            problem = f"no {split} scenes"
            raise DataError.at(self.source.path, "", problem, "choose a source with that split, or raise num_scenes")
        return self.scenes[split]

    def _loader(
        self,
        scenes: list[Scene] | ShardDataset,
        sampler: Sampler[int],
        batch_size: int,
        order_key: OrderKey | None = None,
    ) -> DataLoader:
        is_stream = isinstance(scenes, ShardDataset)
        return ResumableLoader(
            scenes if is_stream else SceneDataset(scenes, self.source.num_frames, self.source.image_size_px),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=partial(collate, taxonomy=self.taxonomy),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            order_key=order_key,
        )
