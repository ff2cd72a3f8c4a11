"""Run by ``tests/modules/test_two_ranks.py``: some steps of stages on one process or two; RLOO with given texts."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from lvad.callbacks.fit_plan import FitPlan
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.estimators import A2C, RLOO
from lvad.modules import ActionSFT, CLIPReward, RLOOPolicy
from lvad.objectives import KL, Regularisation
from lvad.objectives.clip_losses import PairLosses
from lvad.objectives.text_objectives import CrossEntropy
from lvad.policy import HFPolicy, Lora, Sampling
from lvad.rewards.clip import CLIP
from lvad.types import Scores

LETTERS = "abcdefghijklmnop"


class Given(HFPolicy):
    """Says texts that depend on the scene alone, so that their gradient does not depend on who draws them."""

    def encode(self, batch, questions=None):
        self.names = batch.ids
        return super().encode(batch, questions)

    @torch.no_grad()
    def generate(self, prefix, num_completions, greedy=False, grammar=None, begin=None):
        texts = [[name[-k - 3 :] + LETTERS[k] for k in range(num_completions)] for name in self.names]
        rollouts = self.targets(texts)
        return rollouts._replace(logps=self.logprobs(prefix, rollouts))


class Digits(torch.nn.Module):
    """Pays by the digits."""

    def score(self, batch, rollouts):
        rows = [[sum(int(c, 16) for c in text if c in "0123456789") / 40 for text in row] for row in rollouts.texts]
        total = torch.tensor(rows)
        return Scores(total, {"digits": total})


class Breaks(Digits):
    """A judge that fails on one device."""

    def score(self, batch, rollouts):
        if torch.distributed.get_rank() == 1:
            raise ValueError("the judge is broken")
        return super().score(batch, rollouts)


class Watch(LightningModule):
    """Keeps the gradient of every step."""

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        self.seen = [*getattr(self, "seen", []), [whole(p.grad) for p in self.parameters() if p.grad is not None]]


class Describes(Watch, RLOOPolicy):
    pass


class Answers(Watch, ActionSFT):
    pass


class Judges(Watch, CLIPReward):
    pass


def whole(gradient):
    return gradient.full_tensor().clone() if isinstance(gradient, DTensor) else gradient.clone()


def with_adapters(kind, vlm):
    policy = kind(vlm, Sampling(max_new_tokens=8), lora=Lora(rank=4))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)  # zeros would leave half of the gradients zero
    return policy


def make(stage: str, vlm: str, clip: str):
    lr = 0.001 if stage == "a2c2" else 0.1  # large steps within a rollout make rounding large
    sgd = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=lr)}
    if stage == "sft":
        return Answers(with_adapters(HFPolicy, vlm), "answer", objective=CrossEntropy(class_weights=True), **sgd)
    if stage == "clip":
        return Judges(CLIP(clip), losses=PairLosses(bce=1.0), num_negatives=100, **sgd)
    estimator = A2C(warmup_steps=0) if stage.startswith("a2c") else RLOO()
    options = {
        "num_completions": 3,
        "kl": KL(0.1),
        "audit": "off",
        "regularisation": Regularisation(updates=1 + (stage == "a2c2")),
    }
    reward = Breaks() if stage == "breaks" else Digits()
    return Describes(with_adapters(Given, vlm), reward, estimator, **options, **sgd)


class Job(NamedTuple):
    """Two optimizer steps of one stage."""

    stage: str
    devices: int
    batch_size: int
    accumulate: int
    num_train: int
    strategy: str = "ddp"


def fit(job: Job, folder: Path, vlm: str, clip: str, root: str) -> None:
    seed_everything(0, verbose=False)
    sharded = ModelParallelStrategy(job.devices, 1, save_distributed_checkpoint=False)
    strategy: Any = "auto" if job.devices == 1 else sharded if job.strategy == "fsdp" else "ddp"
    module = make(job.stage, vlm, clip)
    trainer = Trainer(
        accelerator="cpu", devices=job.devices, strategy=strategy, max_steps=2,
        accumulate_grad_batches=job.accumulate, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0,
        callbacks=[FitPlan()],
    )  # fmt: skip
    data = BDDOIADataModule(
        Source("lastframe", root),
        Split(unlabelled=isinstance(module, RLOOPolicy), num_scenes=SceneCounts(train=job.num_train, val=7)),
        batch_size=job.batch_size,
        eval_batch_size=4,
    )
    trainer.fit(module, data)
    if trainer.is_global_zero:
        folder.mkdir()
        scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        torch.save(module.seen, folder / "gradients.pt")
        (folder / "scores.json").write_text(json.dumps(scores))


def main(folder: str, vlm: str, clip: str, root: str, jobs: str) -> None:
    """Take the steps of all jobs, one after the other, each into a folder named by its place in the list."""
    for number, job in enumerate(json.loads(jobs)):
        fit(Job(*job), Path(folder) / str(number), vlm, clip, root)


if __name__ == "__main__":
    main(*sys.argv[1:])
