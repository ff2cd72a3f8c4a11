"""The device, and what several sections need."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rloo_bench.geometries import make_folder, set_tiles

from lvad.data.synthetic import write_synthetic


@dataclass(frozen=True)
class Bench:
    """Where the sections run."""

    scratch: Path
    """Shared by all sections: models are made once."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def is_tiny(self) -> bool:
        """Without a GPU the sections run at tiny sizes, as a test of themselves."""
        return self.device.type == "cpu"

    @property
    def dtype(self) -> str:
        return "float32" if self.is_tiny else "bfloat16"

    def drawn_scenes(self) -> Path:
        """The root of a small drawn set, written by the first section that asks."""
        root = self.scratch / "drawn"
        write_synthetic(root, num_train=64, num_val=24, num_test=16, progress=False)
        return root

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def model_folder(self, geometry: str, tiles: int, dtype: str) -> Path:
        """A folder of the model with random weights; one folder per geometry, whatever the tiles."""
        folder = self.scratch / f"{geometry}-{dtype}"
        if geometry == "embedded":
            return make_folder(geometry, tiles, folder, getattr(torch, dtype))
        if not folder.is_dir():
            made = folder.with_suffix(".part")  # a section may be stopped while it writes
            make_folder(geometry, tiles, made, getattr(torch, dtype), self.device.type)
            made.rename(folder)
        set_tiles(folder, tiles)
        return folder
