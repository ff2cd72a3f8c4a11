"""How a fit is followed, and what it leaves where it breaks off."""

import sys

import pytest
import torch
from lightning import LightningModule, Trainer

from lvad.report.progress import PlainProgressLines, TerminalProgressBar, default_progress_bar
from lvad.report.traceback_file import TRACEBACK, TracebackFile


class Tiny(LightningModule):
    """A score that is the number of the batch."""

    def __init__(self, breaks=False):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.breaks = breaks

    def training_step(self, batch, batch_idx):
        if self.breaks:
            raise RuntimeError("some library said no")
        self.log("reward", float(batch_idx), prog_bar=True)
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(module, *callbacks, folder, **options):
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(7, 1)))


@pytest.mark.parametrize(("is_terminal", "kind"), [(True, TerminalProgressBar), (False, PlainProgressLines)])
def test_a_bar_only_where_it_can_move(is_terminal, kind, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert type(default_progress_bar()) is kind


@pytest.mark.filterwarnings("ignore")
def test_a_plain_line_every_n_steps_and_at_both_ends(tmp_path, capsys):
    fit(Tiny(), PlainProgressLines(every_n_steps=3), folder=tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == [f"step {n}/7, epoch 0" for n in (1, 3, 6, 7)]
    assert "reward 2.000, " in lines[1]  # the third batch
    assert "v_num" not in "".join(lines)


@pytest.mark.filterwarnings("ignore")
def test_lines_do_not_flood_a_log(tmp_path, capsys):
    fit(Tiny(), PlainProgressLines(), folder=tmp_path, log_every_n_steps=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split(",")[0] for line in lines] == ["step 1/7", "step 7/7"]


@pytest.mark.filterwarnings("ignore")
def test_a_broken_fit_leaves_where_it_broke(tmp_path):
    with pytest.raises(RuntimeError, match="said no") as broken:
        fit(Tiny(breaks=True), TracebackFile(), folder=tmp_path, enable_progress_bar=False)
    text = (tmp_path / TRACEBACK).read_text()
    assert "in training_step" in text
    assert text.endswith("RuntimeError: some library said no\n")
    assert broken.value.__notes__ == [f"traceback: {tmp_path / TRACEBACK}"]


@pytest.mark.filterwarnings("ignore")
def test_no_folder_is_made_for_it(tmp_path):
    with pytest.raises(RuntimeError):
        fit(Tiny(breaks=True), TracebackFile(), folder=tmp_path / "none", enable_progress_bar=False)
    assert not (tmp_path / "none").exists()
