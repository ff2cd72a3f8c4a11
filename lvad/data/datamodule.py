"""The data of every stage, as Lightning wants it."""

import json
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from lvad.data.balance import scene_weights
from lvad.data.bddoia import Layout, collect, detect, read
from lvad.data.budget import Budget, Rest, check_choice, hidden, unused
from lvad.data.collate import SceneDataset, collate
from lvad.data.drawn import DRAWN, check_drawn, draw_once
from lvad.data.footage import FootageDataset, FootageSampler
from lvad.data.frames import read_frames
from lvad.data.held_out import held_out_loader
from lvad.data.label_sets import check_same
from lvad.data.ledger import Ledger, merge, streamed, uses
from lvad.data.pseudo_labels import label_file, ledger_of_labels, with_pseudo_labels
from lvad.data.readable import keep_readable
from lvad.data.records import SPLITS, DataError, Reading
from lvad.data.resume import BalancedSampler, EpochSampler, Order, ResumableLoader
from lvad.data.shards import Shards
from lvad.data.splits import ALL_SCENES, SceneCounts, Subset, arrange, at_least, take
from lvad.taxonomy import Taxonomy, load_taxonomy, parse_taxonomy
from lvad.types import Scene


class BDDOIADataModule(LightningDataModule):
    """Driving scenes: BDD-OIA in either layout, scenes of your own, plain frames or video, or a drawn set.

    Args:
        format: what ``root`` holds. "synthetic" draws a labelled set there if there is none yet; "auto" finds
            out by itself.
        root: folder of the label files, or a ``.jsonl`` file; for frames a folder of pictures, a picture, or a video.
        images: folder of the pictures, where they do not lie beside the label files.
        num_frames: M, the most frames of a scene, the last ones.
        fps: frames per second taken from a video.
        batch_size: scenes per training step and device.
        eval_batch_size: scenes per batch elsewhere; ``batch_size`` if None.
        num_workers: processes that decode; 0 decodes in the training process.
        seed: of the order of training scenes, and of which scenes a subset holds.
        subset: every scene, those whose recording no other split tests or validates on ("apart"), or the paper's
            one-action-one-reason scenes, split anew 8:2 ("single"), 8:2 with every recording whole in one split
            ("grouped"), or 1,400 / 200 / rest ("reward").
        num_scenes: how many scenes of each split to use; for "synthetic" also how many to draw where there is no set
            yet (800, 128, 300, also where a share is asked for).
        num_drawn: draw so many instead, of which ``num_scenes`` are used.
        image_size_px: longest edge of a frame after reduction; None keeps the size on disk.
        drawing_seed: which endless series of scenes a drawn set is the beginning of; not ``seed``, so that runs with
            different seeds are tested on the same scenes.
        unlabelled: take labels, captions and facts away from the training scenes: nothing can learn from them.
        balance: draw the training scenes with replacement, as many as there are, each in inverse proportion to the
            share of its rarest action, so that single actions come equally often (``lvad.ops.action_weights``); not
            together with class weights in the loss, which correct the same once more.
        footage: train on scenes streamed from these shards instead, without labels: one or several folders, or URLs
            that fsspec knows, as ``lvad data shard`` makes them; ``root`` then gives the other splits alone.
        budget: n, how many training scenes keep their labels; ``seed`` alone chooses them, so that every stage of a
            seed has the same ones. The source's validation split is not used. None is no budget.
        budget_val: how many of the budget's scenes validate instead.
        rest: the training scenes beyond the budget: left out, or kept without labels.
        pseudo_labels: a ``pseudo_labels.json`` beside the ledger of the model that made it: training scenes beyond the
            budget or ``num_scenes.train`` have its labels; those that it does not name are left out.
        video_stream: which of a video's several streams, such as a front and a rear camera, counted from 0; None takes
            the one that is marked as default, or the largest.
        taxonomy: which actions and reasons there are: a ``.yaml`` file, or the name of a set that ships with lvad.

    Raises:
        ValueError: for a value out of range, ``footage`` or ``budget`` with another choice of training scenes, or a
            label set that contradicts itself.
    """

    def __init__(
        self,
        format: Literal["auto", "lastframe", "gt_4a_21r", "jsonl", "frames", "synthetic"] = "synthetic",
        root: str = "data/synthetic",
        images: str | None = None,
        num_frames: int = 2,
        fps: float = 1.0,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        subset: Subset = "all",
        num_scenes: SceneCounts = ALL_SCENES,
        image_size_px: int | None = None,
        drawing_seed: int = 0,
        unlabelled: bool = False,
        balance: bool = False,
        footage: list[str] | str | None = None,
        video_stream: int | None = None,
        num_drawn: SceneCounts = ALL_SCENES,
        budget: int | None = None,
        budget_val: int = 0,
        rest: Rest = "drop",
        pseudo_labels: str | None = None,
        taxonomy: str = "bdd_oia",
    ) -> None:
        super().__init__()
        self.taxonomy: Taxonomy = load_taxonomy(taxonomy)
        self.format: Layout | Literal["auto", "synthetic"] = format
        self.root = Path(root).expanduser()
        self.images = Path(images).expanduser() if images else None
        self.num_frames = at_least(1, num_frames, "num_frames")
        self.fps = fps
        self.batch_size = at_least(1, batch_size, "batch_size")
        eval_size = batch_size if eval_batch_size is None else eval_batch_size
        self.eval_batch_size = at_least(1, eval_size, "eval_batch_size")
        self.num_workers = at_least(0, num_workers, "num_workers")
        self.seed = at_least(0, seed, "seed")
        self.subset: Subset = subset
        self.num_scenes, self.num_drawn = num_scenes, num_drawn
        self.image_size_px = None if image_size_px is None else at_least(1, image_size_px, "image_size_px")
        self.drawing_seed = at_least(0, drawing_seed, "drawing_seed")
        self.unlabelled, self.balance = unlabelled, balance
        self.video_stream = None if video_stream is None else at_least(0, video_stream, "video_stream")
        self.footage = [footage] if isinstance(footage, str) else footage or []
        check_choice(balance, num_scenes, budget, is_stream=bool(self.footage))
        self.budget = None if budget is None else Budget(budget, budget_val, rest)
        self.pseudo_labels = label_file(pseudo_labels, unlabelled or bool(self.footage))
        self.shards: list[Shards] = []
        self.reading: Reading | None = None
        self.predicted: Reading | None = None
        """What predictions are made of, and in its ``errors`` what had to be left out."""
        self.scenes: dict[str, list[Scene]] = {}
        self.pool: list[Scene] = []
        """Training scenes whose labels are not used, without them; in no loader of this module."""

    def prepare_data(self) -> None:
        """Draw the synthetic set, or decode videos, once per node."""
        if self.format == "synthetic":
            draw_once(self.root, self._drawn(), self.num_frames, self.drawing_seed, self.taxonomy)
        elif (detect(self.root) if self.format == "auto" else self.format) == "frames":
            read_frames(self.root, self.num_frames, fps=self.fps, video_stream=self.video_stream)

    def setup(self, stage: str | None = None) -> None:
        """Read and split the scenes; every stage sees the same ones, and ``predict`` all that can be read.

        Raises:
            DataError: if anything on disk cannot be used (``predict``: if nothing can), or ``num_scenes`` asks for more
                than there is.
        """
        if stage == "predict":
            self.predicted = self._readable()
        elif self.reading is None:
            self.reading = read(*self._source(), taxonomy=self.taxonomy)
        if self.reading is not None and not self.scenes and stage != "predict":
            self.scenes = self._split(self.reading)
        if not self.shards and stage in (None, "fit"):
            self.shards = [Shards(url) for url in self.footage]
        rank_zero_info(self.summary())

    def _source(self) -> tuple[Path, Layout | Literal["auto"], int, Path | None, float, int | None]:
        layout: Layout | Literal["auto"] = "lastframe" if self.format == "synthetic" else self.format
        return self.root, layout, self.num_frames, self.images, self.fps, self.video_stream

    def _readable(self) -> Reading:
        return keep_readable(collect(*self._source(), from_first=True, taxonomy=self.taxonomy), self.image_size_px)

    def _split(self, reading: Reading) -> dict[str, list[Scene]]:
        scenes = arrange(reading, self.subset, self.seed)
        counts = self._counts()
        if self.format == "synthetic":
            check_drawn(self.root, reading, self._drawn(), self.num_frames, self.drawing_seed)
        if self.subset != "all" or self.num_drawn != ALL_SCENES:  # of which there are fewer than were drawn
            counts = {split: getattr(self.num_scenes, split) for split in SPLITS}
        whole = scenes["train"]
        for split in SPLITS:
            scenes[split] = take(scenes[split], counts[split], self.seed, f"num_scenes.{split}")
        if self.footage:
            scenes["train"] = []
        if self.budget:
            scenes = self.budget.spend(scenes, self.seed)
        if self.unlabelled:
            scenes["train"] = [hidden(scene) for scene in scenes["train"]]
        self.pool = [] if self.footage else unused(whole, scenes)
        if self.pseudo_labels:
            scenes["train"] = with_pseudo_labels(scenes["train"], self.pool, self.pseudo_labels, self.taxonomy)
        return scenes

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must fit to."""
        return {"taxonomy": self.taxonomy.as_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint of a run with other labels.

        Raises:
            DataError: naming the difference.
        """
        check_same(parse_taxonomy(state_dict["taxonomy"]), self.taxonomy, "the checkpoint")

    def uses(self, stage: str) -> Ledger:
        """What a stage sees of these scenes while it is fitted."""
        made = ledger_of_labels(self.pseudo_labels) if self.pseudo_labels else {}
        return merge([uses(stage, self.scenes), streamed(stage, self.shards), made])

    def train_dataloader(self) -> DataLoader:
        """Shuffled, or drawn in balance, by seed and epoch; the last batch may be smaller.

        Raises:
            DataError: without training scenes, with fewer of footage than devices, or where scenes to balance have no
                labels.
        """
        if self.shards:
            stream = FootageDataset(self.shards, self.num_frames, self.image_size_px)
            order = self._order(len(stream), [shards.digest for shards in self.shards])
            sampler = FootageSampler(stream.counts, self.seed, **self._share())
            return self._loader(stream, sampler, self.batch_size, order)
        scenes = self._of("train")
        share = self._share()
        # The sampler adds the epoch to the seed: room for 4,096 epochs before two seeds meet.
        seed = self.seed << 12
        if self.balance:
            sampler = BalancedSampler(scene_weights(scenes), seed, **share)
        else:
            sampler = EpochSampler(len(scenes), seed, **share)
        return self._loader(scenes, sampler, self.batch_size, self._order(len(scenes), [scene.id for scene in scenes]))

    def _order(self, num_scenes: int, names: list[str]) -> Order:
        """What the order of an epoch depends on."""
        digest = sha256(json.dumps(names).encode()).hexdigest()[:12]
        known = {"data.seed": self.seed, "data.balance": self.balance, "the number of training scenes": num_scenes}
        return {**known, "the digest of their names": digest}

    def _share(self) -> dict[str, int]:
        share = (self.trainer and self.trainer.distributed_sampler_kwargs) or {"num_replicas": 1, "rank": 0}
        return {name: share[name] for name in ("num_replicas", "rank")}

    def val_dataloader(self) -> DataLoader | list:
        """In order, each scene once on whichever device; without a loader where there is no validation scene."""
        return self._held_out(self.scenes["val"]) if self.scenes["val"] else []

    def test_dataloader(self) -> DataLoader:
        """In order, each scene once on whichever device."""
        return self._held_out(self._of("test"))

    def _held_out(self, scenes: list[Scene]) -> DataLoader:
        items = SceneDataset(scenes, self.num_frames, self.image_size_px)
        return held_out_loader(items, self.eval_batch_size, self.num_workers, self._share(), self.taxonomy)

    def predict_dataloader(self) -> DataLoader:
        """Every scene of ``root``, in order, whatever its split; every frame of a sequence ends one.

        Raises:
            DataError: with fewer scenes than devices, which Lightning cannot share out.
        """
        self.predicted = self.predicted or self._readable()
        scenes = self.predicted.scenes
        num_devices = self.trainer.world_size if self.trainer else 1
        if num_devices > max(1, len(scenes)):
            raise DataError(f"{len(scenes)} scenes for {num_devices} devices; add --trainer.devices 1")
        return self._loader(scenes, SequentialSampler(scenes), self.eval_batch_size)

    def summary(self) -> str:
        """Say in one line per fact what was read, used and left out."""
        reading = self.reading or self.predicted
        if reading is None:
            return f"{self.root}: not read yet"
        beside = [str(self.budget)] if self.budget else []
        streams = [f"training scenes streamed, without labels: {shards}" for shards in self.shards]
        return reading.summary(self.root, self.scenes, self.unlabelled, beside, streams)

    def _counts(self) -> dict[str, int | float | None]:
        counts = {split: getattr(self.num_scenes, split) for split in SPLITS}
        if self.format != "synthetic":
            return counts
        return {split: DRAWN[split] if count is None else count for split, count in counts.items()}

    def _drawn(self) -> dict[str, int | float | None]:
        """How many scenes of each split a drawn set has."""
        chosen = {split: getattr(self.num_drawn, split) for split in SPLITS}
        return {split: count if chosen[split] is None else chosen[split] for split, count in self._counts().items()}

    def _of(self, split: str) -> list[Scene]:
        if not self.scenes[split]:
            problem = f"no {split} scenes"
            raise DataError.at(self.root, "", problem, "choose a source with that split, or raise num_scenes")
        return self.scenes[split]

    def _loader(
        self, scenes: list[Scene] | FootageDataset, sampler: Sampler[int], batch_size: int, order: Order | None = None
    ) -> DataLoader:
        is_stream = isinstance(scenes, FootageDataset)
        return ResumableLoader(
            scenes if is_stream else SceneDataset(scenes, self.num_frames, self.image_size_px),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=partial(collate, taxonomy=self.taxonomy),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            order=order,
        )
