"""The sections of docs/performance.md on images at several sizes."""

from typing import Any

from benchmarks.shared.pages import extremes, machine, table


def levels_section(result: dict[str, Any]) -> str:
    rows = []
    for line in result["rates"]:
        rates = [extremes(way["images_per_s"], ",.0f") for way in line["ways"]]
        ratios = [extremes(line[name], ".2f") for name in ("ratio", "cpu_ratio")]
        rows.append([f"{line['image_size']}", f"{line['keep_rate']:g}", *rates, *ratios])
    shares, full_bytes = [], result["tar_bytes"]["full size"]
    for one in result["pixels"]:
        at_level = one["distance_of_images_at_a_level"]
        far = ["", ""] if at_level is None else [f"{at_level['mean']:.2f}", f"{at_level['p95']:.2f}"]
        taken = ", ".join(f"{name} {share:.0%}" for name, share in one["share_at"].items())
        kilobytes = [f"{one[key] / 1000:.1f}" for key in ("bytes_read_per_image", "bytes_read_per_image_full_size")]
        shares.append([f"{one['image_size']}", taken, *kilobytes, f"{one['mean_distance']:.2f}", *far])
    sizes = ", ".join(f"{name} {size / full_bytes:.0%}" for name, size in result["tar_bytes"].items())
    heads = (
        ["image size", "keep", "images/s with levels", "full size alone", "times as fast", "by processor time"],
        ["image size", "images read at", "KB read of one", "full size alone", "distance", "at a level", "95 % below"],
    )
    return "\n".join(
        [
            "## Images at several sizes\n",
            machine(result),
            f"\n{result['num_images']:,} photographs, crop and flip, `random` patches of 16 pixels, batches of "
            f"{result['batch_size']}, {result['cores']} threads; `data.levels: {result['levels']}` and without, in "
            f"turn; ratios are within a round. Bytes of the tars: {sizes}.\n",
            table(heads[0], rows),
            "\nHow far the square images are from those that the full size gives, as the mean of an image's absolute "
            "differences in levels of 255: of all images, and of those that are read at a level.\n",
            table(heads[1], shares),
        ]
    )


def levels_table_section(result: dict[str, Any]) -> str:
    found = result["table"]
    sizes = [one["image_size"] for one in found["ways"][0]["by_size"]]
    rows = [
        [way["way"], extremes(way["seconds"], ".1f"), extremes(way["images_per_s"], ",.0f")]
        + [f"{one['images_per_s']['median']:,.0f}" for one in way["by_size"]]
        for way in found["ways"]
    ]
    ratio, cpu_ratio = (extremes(found[name], ".2f") for name in ("ratio", "cpu_ratio"))
    steps = ", ".join(f"[{share:.3f}, {size:g}]" for share, size in found["image_size_values"])
    return "\n".join(
        [
            "## Images at several sizes, under EfficientTrain++'s table\n",
            machine(result),
            f"\nThe loader alone over a run of {found['num_images']:,} images of {result['num_images']:,} photographs, "
            f"crop and flip, all patches of 16 pixels, batches of {result['batch_size']}, {result['cores']} threads, "
            f"`schedule.image_size: {{kind: steps, values: [{steps}]}}`. Of the computation of training the authors' "
            "script for DeiT-S (arXiv 2405.08768) gives 96 pixels two tenths, 160 four, 192 and 224 two each; a tenth "
            f"holds as many images as it can compute. `data.levels: {result['levels']}` and without, in turn.\n",
            table(["way", "s", "images/s", *(f"at {size}" for size in sizes)], rows),
            f"\nWith levels the run's images are loaded {ratio} times as fast, {cpu_ratio} by processor time.\n",
        ]
    )
