"""The worst batch: how it is chosen, what it costs, and that trying it leaves no trace."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from PIL import Image
from transformers import Idefics3ImageProcessor

from lvad.answers.describer import DescriptionOptions
from lvad.callbacks.fit_plan import FitPlan
from lvad.callbacks.worst_batch import _remedy, try_step, worst_batch, worst_scenes
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.errors import DoesNotFit
from lvad.estimators import A2C
from lvad.modules import ActionSFT, CLIPReward, RLOOPolicy
from lvad.objectives import KL
from lvad.policy import HFPolicy, Lora, Sampling
from lvad.policy.pixels import Tiling
from lvad.rewards import CLIPCosine
from lvad.rewards.clip import CLIP
from lvad.types import Scene


@pytest.fixture
def data(drawn_root):
    made = BDDOIADataModule(
        Source("lastframe", drawn_root), Split(num_scenes=SceneCounts(train=8, val=4)), batch_size=4
    )
    made.setup()
    return made


def trainer(root, *callbacks, steps=2):
    return Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, default_root_dir=root,
        callbacks=[*callbacks],
    )  # fmt: skip


def describer(vlm_folder, clip_folder):
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=8), lora=Lora(rank=4))
    return RLOOPolicy(
        policy, CLIPCosine(str(clip_folder)), A2C(), num_completions=3, kl=KL(0.1, target=0.5), audit="off"
    )


def answerer(vlm_folder, clip_folder):
    return ActionSFT(
        HFPolicy(str(vlm_folder), Sampling(max_new_tokens=8)), describe=DescriptionOptions(hide_frames=0.5)
    )


def judge(vlm_folder, clip_folder):
    return CLIPReward(CLIP(str(clip_folder)))


def scene(root, name, *sizes, reasons=()):
    files = []
    for i, size in enumerate(sizes):
        files.append(root / f"{name}_{i}.png")
        Image.new("RGB", size).save(files[-1])
    return Scene(name, tuple(files), "train", None, reasons)


def test_frames_come_before_pixels_and_pixels_before_words(tmp_path):
    scenes = [
        scene(tmp_path, "large", (90, 90)),
        scene(tmp_path, "two", (10, 10), (10, 10)),
        scene(tmp_path, "talkative", (10, 10), (10, 10), reasons=(1, 1, 1)),
        scene(tmp_path, "three", (20, 20), (20, 20), (20, 20)),  # of which two are shown
    ]
    assert [s.id for s in worst_scenes(scenes, 2, 3)] == ["three", "talkative", "two"]
    assert [s.id for s in worst_scenes(scenes, 1, 2)] == ["large", "three"]
    assert [s.id for s in worst_scenes(scenes, 3, 9)] == ["three", "large", "two", "talkative"]


def test_with_a_policy_tokens_come_before_frames(tmp_path):
    """A panorama of few pixels can be cut into more tiles than a larger square, and one frame into more than two."""
    scenes = [
        scene(tmp_path, "square", (90, 90)),
        scene(tmp_path, "panorama", (90, 30)),
        scene(tmp_path, "two", (20, 20), (20, 20)),
        scene(tmp_path, "small", (60, 20)),
    ]

    def tokens(height, width, num_frames):
        return 10 * -(-width // height)

    assert [s.id for s in worst_scenes(scenes, 2, 4, None, tokens)] == ["panorama", "small", "two", "square"]
    assert [s.id for s in worst_scenes(scenes, 2, 4, 30, tokens)] == ["panorama", "small", "two", "square"]
    sizes = []
    worst_scenes(scenes, 2, 4, 30, lambda height, width, num_frames: sizes.append((width, height)) or 1)
    assert sorted(sizes) == [(20, 20), (30, 10), (30, 10), (30, 30)]  # as the policy will see them


def test_a_picture_that_cannot_be_opened_is_left_to_the_reader(tmp_path):
    bad = scene(tmp_path, "bad", (10, 10))
    bad.frames[0].write_bytes(b"no picture")
    assert [s.id for s in worst_scenes([bad, scene(tmp_path, "good", (4, 4))], 1, 1)] == ["good"]


class Square(LightningModule):
    """Keeps its input for the weights' gradient, and its output for the square's."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, 7, bias=False)

    def training_step(self, batch, batch_idx):
        self.log("train/loss", 0.0)
        return self.layer(batch).pow(2).sum()


def test_what_the_forward_keeps_is_counted_once(tmp_path):
    fit: Any = trainer(tmp_path)
    fit.strategy.connect(Square())
    batch: Any = torch.ones(3, 5)
    tried = try_step(fit, fit.strategy.lightning_module, batch)
    assert tried.saved_bytes == 4 * (3 * 5 + 3 * 7)
    assert (tried.prompt_tokens, tried.completion_tokens, tried.peak_bytes) == (0, 0, None)
    assert fit.strategy.lightning_module.layer.weight.grad is None


def test_every_completion_is_as_long_as_it_may_be(tmp_path, vlm_folder, clip_folder, data):
    tried = []

    class Watch(FitPlan):
        def on_fit_start(self, trainer, pl_module):
            tried.append(try_step(trainer, pl_module, worst_batch(data)))

    trainer(tmp_path, Watch(), steps=1).fit(describer(vlm_folder, clip_folder), data)
    assert tried[0].completion_tokens == 4 * 3 * 8
    assert tried[0].prompt_tokens > 4 * 8
    assert tried[0].saved_bytes > 0


@pytest.mark.parametrize("make", [describer, answerer, judge])
def test_a_tried_batch_leaves_no_trace(tmp_path, vlm_folder, clip_folder, data, make):
    ends, descriptions = [], []
    for preflight in (False, True):
        seed_everything(3, verbose=False)
        module = make(vlm_folder, clip_folder)
        plan = FitPlan(preflight)
        trainer(tmp_path, plan).fit(module, data)
        assert ("worst batch" in dict(plan.rows)) == preflight
        ends.append(module.state_dict() | {"random": torch.get_rng_state()})
        if kl := getattr(module, "kl", None):
            ends[-1]["beta"] = torch.tensor(kl.beta, dtype=torch.float64)
        descriptions.append(module.describer.kept_descriptions() if hasattr(module, "describer") else None)
    without, tried = ends
    assert descriptions[0] == descriptions[1]
    assert without.keys() == tried.keys()
    assert all(torch.equal(without[name], tried[name]) for name in without)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. TrialStep to allocate 9 GiB"), MemoryError()]
)
def test_out_of_memory_names_the_batch_and_what_helps(tmp_path, vlm_folder, clip_folder, data, monkeypatch, error):
    module = describer(vlm_folder, clip_folder)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(module.policy, "logprobs", fail)
    with pytest.raises(
        DoesNotFit, match=r"4 scenes of up to 2 frames of \d+x\d+.*data.batch_size 2 .*doubled"
    ) as caught:
        trainer(tmp_path, FitPlan()).fit(module, data)
    assert "completions_at_once 2" in str(caught.value)
    assert "; a smaller data.source.num_frames" in str(caught.value)
    # The processor scales every frame to its one tile.
    assert "image_size_px" not in str(caught.value)
    assert "policy images." not in str(caught.value)
    assert "gradient_checkpointing true" in str(caught.value)


def test_out_of_memory_names_fewer_tiles_first(tmp_path, vlm_folder, clip_folder, data, monkeypatch):
    module = describer(vlm_folder, clip_folder)
    tiling = Tiling.of(Idefics3ImageProcessor(size={"longest_edge": 512}, max_image_size={"longest_edge": 128}))
    monkeypatch.setattr(module.policy.prompt_ids.frame_encoder, "tiling", tiling)
    batch = worst_batch(data)
    said = _remedy(module, batch, MemoryError())
    tall, wide = batch.frames[0].shape[-2:]
    fewer = replace(tiling, longest_edge_px=384).num_tiles(tall, wide)
    first = f"policy images.longest_edge_px 384 ({fewer} tiles a frame); policy images.splitting false (1 tile a frame)"
    assert said.split("what helps: ")[1].startswith(first)


def test_another_error_is_not_called_one_of_memory(tmp_path, vlm_folder, clip_folder, data, monkeypatch):
    module = describer(vlm_folder, clip_folder)

    def fail(*args, **kwargs):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(module.policy, "logprobs", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        trainer(tmp_path, FitPlan()).fit(module, data)


def test_a_stream_is_tried_on_validation_scenes():
    listed = SimpleNamespace(scenes={"train": [], "val": []}, num_frames=1, batch_size=2)
    empty: Any = listed
    assert worst_batch(empty) is None
