"""The drawn (synthetic) set of a run: generated where there is none yet, refused where the folder holds another."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from lvad.data.reading import Reading, read_json
from lvad.data.split import SceneCounts
from lvad.errors import DataError
from lvad.taxonomy import Taxonomy
from lvad.taxonomy.compatibility import check_same_taxonomy, folder_taxonomy

RECIPE: Final = "synthetic.json"
DEFAULT_COUNTS: Final = {"train": 800, "val": 128, "test": 300}
"""Number of synthetic scenes of each split where the configuration gives none."""


@dataclass(frozen=True)
class SyntheticSet:
    """A set of synthetic scenes as a configuration asks for it.

    Args:
        root: folder of the set.
        counts: scenes of each split; for a share the set of default size is drawn.
        num_frames: M, frames of a scene.
        seed: seed of the endless series of scenes whose first ones make the set.
    """

    root: Path
    counts: SceneCounts
    num_frames: int
    seed: int

    def generate_if_absent(self, taxonomy: Taxonomy) -> None:
        """Draw the set where the folder is empty or absent; ``check`` says whether one drawn earlier is large enough.

        Raises:
            DataError: for one drawn earlier with other labels.
        """
        if self._exists():
            if (self.root / RECIPE).is_file():
                check_same_taxonomy(folder_taxonomy(self.root), taxonomy, self.root)
            return
        counts = asdict(self.counts).items()
        whole = [count if isinstance(count, int) else DEFAULT_COUNTS[split] for split, count in counts]
        from lvad.data.synthetic.write import write_synthetic

        try:
            write_synthetic(self.root, *whole, seed=self.seed, num_frames=self.num_frames, taxonomy=taxonomy)
        except OSError:
            # Another run may have finished the same folder first.
            if not self._exists():
                raise

    def check(self, reading: Reading) -> None:
        """Refuse a set drawn earlier that is another one, or smaller than what is asked for now.

        Args:
            reading: the scenes that were read from the folder.

        Raises:
            DataError: naming the difference.
        """
        remedy = "delete the folder to draw it anew, or give another root"
        recipe = self.root / RECIPE
        if recipe.is_file() and (drawn_with := read_json(recipe, dict).get("seed")) != self.seed:
            problem = f"drawn with seed {drawn_with}, drawing_seed is {self.seed}"
            raise DataError.at(self.root, "", problem, remedy)
        for split, count in asdict(self.counts).items():
            drawn = sum(scene.split == split for scene in reading.scenes)
            if isinstance(count, int) and count > drawn:
                problem = f"holds {drawn} {split} scenes, num_scenes or num_drawn asks for {count}"
                raise DataError.at(self.root, "", problem, remedy)
        shortest = min((len(scene.frames) for scene in reading.scenes), default=self.num_frames)
        if shortest < self.num_frames:
            problem = f"scenes have {shortest} frames, num_frames asks for {self.num_frames}"
            raise DataError.at(self.root, "", problem, remedy)

    def _exists(self) -> bool:
        return self.root.is_dir() and any(self.root.iterdir())
