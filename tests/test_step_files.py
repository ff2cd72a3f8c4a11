"""The page on the engine names the files that a training step of the main job passes, all of them and no others."""

import re
import sys
from pathlib import Path

import pytest
from lightning import Trainer, seed_everything
from pages import text_of

import lvad
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import Split
from lvad.modules import RLOOPolicy
from lvad.policy import HFPolicy, Sampling
from lvad.rewards import CLIPCosine

PACKAGE = Path(lvad.__file__).parent
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}


def named_files():
    section = text_of("docs/engine.md").split("## The files of a step")[1].split("\n## ")[0]
    return re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE)


class Followed(RLOOPolicy):
    """Notes the files of the package that a step calls functions of."""

    files: frozenset[str] = frozenset()

    def training_step(self, batch, batch_idx):
        paths = set()
        sys.setprofile(lambda frame, event, _: paths.add(frame.f_code.co_filename) if event == "call" else None)
        try:
            return super().training_step(batch, batch_idx)
        finally:
            sys.setprofile(None)
            inside = [Path(path) for path in paths if Path(path).is_relative_to(PACKAGE)]
            self.files = frozenset(path.relative_to(PACKAGE).as_posix() for path in inside)


@pytest.fixture
def module(vlm_folder, clip_folder):
    seed_everything(0, verbose=False)
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=6))
    return Followed(policy, CLIPCosine(str(clip_folder)), num_completions=4, audit="off")


def test_a_step_of_the_main_job_passes_the_files_that_the_page_names(module, drawn_root, tmp_path):
    scenes = BDDOIADataModule(Source("lastframe", str(drawn_root)), Split(unlabelled=True), batch_size=4)
    # The second step: what the first imports is there.
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, max_steps=2, limit_val_batches=0, **QUIET)
    trainer.fit(module, scenes)
    assert sorted(module.files) == sorted(named_files())


def test_the_files_in_the_figure_exist():
    files = re.findall(r"[\w/]+\.py", text_of("docs/engine.svg"))
    assert len(files) == 10
    assert all((PACKAGE / file).is_file() for file in files)
