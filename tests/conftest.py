"""Real data where it is to be had, and models with random weights."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers fill the cores, and so do the processes that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real label files, stills and sequences, which may not be shipped: beside a checkout or nowhere."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Small inputs with right values, which tests make themselves too: beside a checkout or nowhere."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"no cases at {folder}")
    return folder


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory) -> Path:
    """The embedded captioner's architecture with random weights."""
    from lvad.commands.embedded_models import make_vlm

    folder = tmp_path_factory.mktemp("models") / "vlm"
    make_vlm(folder, vocab_size=320, num_scenes=20)
    return folder


@pytest.fixture(scope="session")
def clip_folder(vlm_folder) -> Path:
    """The embedded CLIP's architecture with random weights around that captioner's vision encoder."""
    from lvad.commands.embedded_models import make_clip

    make_clip(vlm_folder.parent / "clip", vlm_folder)
    return vlm_folder.parent / "clip"


@pytest.fixture(scope="session")
def drawn_root(tmp_path_factory) -> Path:
    """A small drawn set on disk."""
    from lvad.data.synthetic import write_synthetic

    root = tmp_path_factory.mktemp("data") / "drawn"
    write_synthetic(root, num_train=16, num_val=8, num_test=8, progress=False)
    return root


@pytest.fixture(scope="session")
def fit(tmp_path_factory, vlm_folder, clip_folder, drawn_root):
    """Two steps of a shipped configuration on random weights; the run's folder."""
    from small_fits import small_fit

    def run(stage, *options):
        return small_fit(stage, tmp_path_factory.mktemp("logs"), vlm_folder, clip_folder, drawn_root, *options)

    return run


@pytest.fixture(scope="session")
def lora_run(fit):
    from small_fits import LEARN, LORA

    return fit("rloo", *LORA, LEARN, "0.05")


@pytest.fixture(scope="session")
def clip_run(fit):
    return fit("clip_reward", "--model.init_args.wise_ft", "[0.5]")


@pytest.fixture
def make_batch():
    """Random frames of given numbers per scene."""

    def make(*num_frames, seed=0):
        import torch

        from lvad.types import UNLABELLED, Batch

        generator = torch.Generator().manual_seed(seed)
        size = len(num_frames)
        return Batch(
            ids=[f"scene-{i}" for i in range(size)],
            frames=[
                torch.randint(0, 256, (m, 3, 128, 128), generator=generator, dtype=torch.uint8) for m in num_frames
            ],
            actions=torch.full((size, 4), UNLABELLED),
            reasons=torch.full((size, 21), UNLABELLED),
            captions=[()] * size,
            facts=[None] * size,
            recordings=[f"scene-{i}" for i in range(size)],
        )

    return make


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory):
    """A tiny model of a family with random weights, made once."""
    from functools import cache

    from tiny_families import make_family

    @cache
    def folder(name: str) -> Path:
        made = tmp_path_factory.mktemp("families") / name
        make_family(name, made)
        return made

    return folder
