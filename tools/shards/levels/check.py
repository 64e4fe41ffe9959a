"""Whether the levels that lie beside shards are theirs."""

from pathlib import Path

from pipeline.shards.index import ShardIndex, index_path
from pipeline.shards.levels import level_folder, list_levels, open_level
from pipeline.shards.tars import Fault


def indexed_levels(folder: Path, index: ShardIndex) -> list[int]:
    """The levels beside shards that have an index of the same split, the largest first."""
    return [pixels for pixels in list_levels(folder) if index_path(level_folder(folder, pixels), index.split).is_file()]


def check_levels(folder: Path, index: ShardIndex) -> list[Fault]:
    """Each level of a split that training would refuse, or in which a sample is another one.

    Args:
        index: of the split, as it lies in ``folder``.
    """
    faults = []
    for pixels in indexed_levels(folder, index):
        name = f"{level_folder(folder, pixels).name}/{index.split}.index"
        try:
            level = open_level(index, pixels)
        except (ValueError, OSError) as error:
            faults.append(Fault(name, "", str(error)))
            continue
        for number, shard in enumerate(index.shards):
            start, stop = index.first_ids[number : number + 2].tolist()
            for i in range(start, stop):
                if (index.key(i), index.label[i]) != (level.key(i), level.label[i]):
                    reason = f"sample {i} is {level.key(i)!r} with label {level.label[i]} there"
                    faults.append(Fault(f"{level.folder.name}/{shard.name}", index.key(i), reason))
    return faults
