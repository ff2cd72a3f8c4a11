"""The drawn set of a run: made where there is none yet, and refused where it is another one."""

from pathlib import Path
from typing import Final

from lvad.data.label_sets import check_same, taxonomy_of_run
from lvad.data.records import DataError, Reading, read_json
from lvad.taxonomy import Taxonomy

RECIPE: Final = "synthetic.json"
DRAWN: Final = {"train": 800, "val": 128, "test": 300}
"""What is drawn where ``num_scenes`` does not say."""


def draw_once(
    root: Path, counts: dict[str, int | float | None], num_frames: int, seed: int, taxonomy: Taxonomy
) -> None:
    """Draw the set where the folder is empty or absent; whether one drawn earlier is large enough, setup decides.

    Raises:
        DataError: for one drawn earlier with other labels.
    """
    if root.exists() and any(root.iterdir()):
        if (root / RECIPE).is_file():
            check_same(taxonomy_of_run(root), taxonomy, root)
        return
    # A share is taken of the usual set, which is drawn whole.
    whole = [count if isinstance(count, int) else DRAWN[split] for split, count in counts.items()]
    from lvad.data.synthetic.write import write_synthetic

    try:
        write_synthetic(root, *whole, seed=seed, num_frames=num_frames, taxonomy=taxonomy)
    except OSError:
        # Another run may have finished the same folder first.
        if not (root.is_dir() and any(root.iterdir())):
            raise


def check_drawn(
    root: Path, reading: Reading, counts: dict[str, int | float | None], num_frames: int, seed: int
) -> None:
    """Refuse a set drawn earlier that is another one, or smaller than what is asked for now."""
    remedy = "delete the folder to draw it anew, or give another root"
    recipe = root / RECIPE
    if recipe.is_file() and (drawn_with := read_json(recipe, dict).get("seed")) != seed:
        raise DataError.at(root, "", f"drawn with seed {drawn_with}, drawing_seed is {seed}", remedy)
    for split, count in counts.items():
        drawn = sum(scene.split == split for scene in reading.scenes)
        if isinstance(count, int) and count > drawn:
            raise DataError.at(
                root, "", f"holds {drawn} {split} scenes, num_scenes or num_drawn asks for {count}", remedy
            )
    shortest = min((len(scene.frames) for scene in reading.scenes), default=num_frames)
    if shortest < num_frames:
        raise DataError.at(root, "", f"scenes have {shortest} frames, num_frames asks for {num_frames}", remedy)
