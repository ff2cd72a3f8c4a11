"""``--ckpt_path last``."""

import os

import pytest
import torch
from jsonargparse import Namespace

from lvad.commands.run_folder import default_root_dir, find_interrupted_run, resume_run
from lvad.errors import DataError


def write_run(folder, step, age=0):
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "global_step": step}, path)
    os.utime(path, ns=(10**18 - age, 10**18 - age))
    return folder


def make_config(save_dir, **options):
    logger = Namespace(
        class_path="TensorBoardLogger", init_args=Namespace(save_dir=str(save_dir), name="rloo", **options)
    )
    return Namespace(ckpt_path="last", trainer=Namespace(logger=logger))


def test_the_run_that_wrote_last_goes_on_in_its_own_folder(tmp_path, capsys):
    write_run(tmp_path / "rloo/version_3", 40, age=10)
    newest = write_run(tmp_path / "rloo/version_2", 17)
    (tmp_path / "rloo/version_4").mkdir()  # it never reached a checkpoint
    config = make_config(tmp_path)
    resume_run(config)
    assert config.ckpt_path == str(newest / "checkpoints/last.ckpt")
    assert config.trainer.logger.init_args.version == 2
    assert config.trainer.logger.dict_kwargs == {"purge_step": 17}
    assert "version_2 after 17 steps" in capsys.readouterr().out


def test_without_a_run_it_starts_anew(tmp_path, capsys):
    config = make_config(tmp_path)
    resume_run(config)
    assert config.ckpt_path is None
    assert "starting anew" in capsys.readouterr().out


def test_a_run_without_a_logger_goes_on_too(tmp_path, capsys):
    newest = write_run(tmp_path / "RLOOPolicy/version_0", 17)
    trainer = Namespace(logger=False, default_root_dir=str(tmp_path))
    config = Namespace(ckpt_path="last", trainer=trainer, model=Namespace(class_path="lvad.modules.RLOOPolicy"))
    assert resume_run(config) == newest
    assert config.ckpt_path == str(newest / "checkpoints/last.ckpt")
    assert default_root_dir(config, newest) == {"default_root_dir": str(newest)}
    assert default_root_dir(config, None) == {"default_root_dir": str(tmp_path / "RLOOPolicy/version_1")}
    trainer.logger, trainer.default_root_dir = True, None
    assert default_root_dir(config, None) == {"default_root_dir": "logs"}


def test_a_folder_of_shards_is_not_called_broken(tmp_path):
    (tmp_path / "version_0/checkpoints/last.ckpt").mkdir(parents=True)
    with pytest.raises(DataError, match="is a folder of shards; go on with it by --ckpt_path"):
        find_interrupted_run(tmp_path)


def test_a_logger_without_a_folder_is_refused():
    config = Namespace(ckpt_path="last", trainer=Namespace(logger=True))
    with pytest.raises(DataError, match="needs one logger with a save_dir"):
        resume_run(config)


def test_a_broken_checkpoint_is_named_with_the_remedy(tmp_path):
    run = write_run(tmp_path / "version_0", 3)
    path = run / "checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"last\.ckpt: is no checkpoint that can be read .*delete it"):
        find_interrupted_run(tmp_path)


def test_no_pickle_is_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    run = write_run(tmp_path / "version_0", 3)
    torch.save({"global_step": Bomb()}, run / "checkpoints/last.ckpt")
    with pytest.raises(DataError, match="is no checkpoint that can be read"):
        find_interrupted_run(tmp_path)
    assert not (tmp_path / "harm").exists()
