"""Small fits of ``RLOOPolicy`` and what they log."""

import pytest
import torch
from letters import Letters
from lightning import Callback, Trainer, seed_everything

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import Split
from lvad.modules import RLOOPolicy
from lvad.policy import HFPolicy, Lora, Sampling


class Watch(Callback):
    """Keeps every logged number of every step."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, module, *_):
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def column(self, name):
        return [row[name] for row in self.rows]


@pytest.fixture
def fit(vlm_folder, drawn_root, tmp_path):
    def run(reward=None, steps=2, lora=True, lr=3e-3, trainer=None, ckpt=None, dry=False, **options):
        seed_everything(0, verbose=False)
        policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=5), lora=Lora(rank=4) if lora else None)
        options = {"num_completions": 3, "kl": None, "audit": "off"} | options
        module = RLOOPolicy(
            policy, reward or Letters(), optimizer=lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=0.0), **options
        )
        watch = Watch()
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        quiet |= {"logger": False, "limit_val_batches": 0, "default_root_dir": tmp_path, "accelerator": "cpu"}
        more = {"callbacks": [watch, *(trainer or {}).pop("callbacks", [])]}
        loop = Trainer(max_steps=steps, **(quiet | (trainer or {}) | more))
        data = BDDOIADataModule(Source("lastframe", str(drawn_root)), Split(unlabelled=True), batch_size=4)
        if not dry:
            loop.fit(module, data, ckpt_path=ckpt, weights_only=True if ckpt else None)
        return module, watch, loop

    return run
