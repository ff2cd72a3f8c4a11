"""A little footage in shards, and loaders of it."""

from PIL import Image

from lvad.data.collate import collate
from lvad.data.loaders import ResumableLoader
from lvad.data.shard_dataset import ShardDataset, ShardSampler
from lvad.data.shard_source import ShardRecipe
from lvad.data.shard_writer import write_shards
from lvad.data.shards import ShardFolder


def write_frames(folder, sizes):
    """Drives of single-coloured frames; the colour tells which."""
    for drive, size in enumerate(sizes):
        (folder / f"drive-{drive}").mkdir(parents=True)
        for i in range(size):
            Image.new("RGB", (16, 8), (40 * drive, 10 * i, 0)).save(folder / f"drive-{drive}" / f"{i}.jpg", quality=95)


def make_footage(folder):
    """14 scenes of two frames in shards of 3, 3, 3, 3 and 2."""
    write_frames(folder / "source", [6, 7, 4])
    write_shards(ShardRecipe(str(folder / "source"), scenes_per_shard=3), folder / "shards", progress=False)
    return folder / "shards"


def make_loader(footage, num_workers=0, num_replicas=1, rank=0, epoch=1):
    dataset = ShardDataset([ShardFolder(str(footage))], num_frames=2)
    sampler = ShardSampler(dataset.counts, 3, num_replicas, rank, num_shuffled_shards=2)
    sampler.set_epoch(epoch)
    return ResumableLoader(dataset, batch_size=3, sampler=sampler, num_workers=num_workers, collate_fn=collate)


def batches(loader):
    return [(batch.ids, [frames.flatten().tolist() for frames in batch.frames]) for batch in loader]
