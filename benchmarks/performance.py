"""Writes docs/performance.md from the raw results of the speed benchmarks.

python -m benchmarks.performance
"""

import ast
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.levels.page import levels_section, levels_table_section
from benchmarks.measuring import RESULTS
from benchmarks.predicted_hosts.page import predicted_hosts_section
from benchmarks.shared.pages import extremes, machine, table

PAGE, TEXT = Path("docs/performance.md"), Path(__file__).with_suffix(".md")
_ACCEPTED = ("update", "loader", "step")
DECODING_RESIZED = "ours, decoding alone, shards of 256 pixels"
TITLES = {"photographs": "Photographs, 224 pixels, patches of 16", "fashion_mnist": "Fashion-MNIST, patches of 4"}


def ratio_line(what: str, bound: str, line: dict[str, Any]) -> str:
    """One comparison with what was hoped for, as an item of a list."""
    hoped = "" if line["target"] is None else f", hoped for: {bound} {line['target']:g}"
    return f"- {line[what]} over {line.get('which_is', line['over'])}: **{extremes(line['ratio'], '.3f')}**{hoped}"


def peers_of(result: dict[str, Any]) -> str:
    """The versions of the contenders that others wrote, and which are missing."""
    installed = [f"{name} {number}" for name, number in result.get("versions", {}).items() if number is not None]
    left_out = [f"{name}, which {why}" for name, why in result.get("left_out", {}).items()]
    return (f" Beside these: {', '.join(installed)}." if installed else "") + (
        f" Left out: {'; '.join(left_out)}." if left_out else ""
    )


def loader_section(result: dict[str, Any], title: str = "The loader") -> str:
    parts = [
        f"## {title}\n",
        machine(result) + peers_of(result),
        "\nCPU time is that of all processes. Bytes are of the tensors that are handed to the trainer; others "
        "normalise on the device too, so theirs are in uint8; timm's NaFlex patches alone are float32.",
    ]
    for name, lines in result["data_sets"].items():
        head = ["", "images/s", "CPU ms/image", "bytes/image"]
        parts.append(f"\n### {TITLES[name]}\n\n" + table(head, [loader_row(line) for line in lines]))
        if fewer := result.get("over_threads", {}).get(name):
            rows = [[str(line["threads"]), *loader_row(line)] for line in fewer]
            parts.append("\nWith other numbers of worker threads:\n\n" + table(["threads", *head], rows))
        if name == "photographs":
            parts.append("\n" + "\n".join(ratio_line("rate_of", "at least", line) for line in result["ratios"]))
            if any(line["contender"] == DECODING_RESIZED for line in lines):
                parts.append("\n" + where_the_time_goes(lines, result["fast_idct_levels"]))
            if told := what_splicing_saves(lines):
                parts.append("\n" + told)
    return "\n".join(parts)


def loader_row(line: dict[str, Any]) -> list[str]:
    return [
        line["contender"],
        extremes(line["images_per_s"], ",.0f"),
        extremes(line["cpu_ms_per_image"], ".2f"),
        f"{line['bytes_per_image']:,}" if line["bytes_per_image"] else "",
    ]


def where_the_time_goes(lines: list[dict[str, Any]], levels: dict[str, float]) -> str:
    """What decoding takes of the loader's time, and so how much decoding less can gain."""
    cpu_ms = {line["contender"]: line["cpu_ms_per_image"]["median"] for line in lines}
    loader, window = cpu_ms["ours, random, keep 0.2"], cpu_ms["ours, decoding alone"]
    whole, small = cpu_ms["ours, decoding whole images alone"], cpu_ms[DECODING_RESIZED]
    rest = loader - window
    bounds = {echo: loader / (whole / echo + rest) for echo in (2, 4)}
    return (
        f"Where the time goes: at keep rate 0.2 an image takes {loader:.2f} ms of processor time, of which reading and "
        f"decoding the crop take {window:.2f} and everything else {rest:.2f}; a core feeds {1000 / loader:,.0f} "
        f"images/s. Decoding a whole image takes {whole:.2f} ms, for otherwise only the crop's rows and columns are "
        "decoded. So echo, which decodes whole images because every view has a crop of its own, cannot gain more than "
        f"{bounds[2]:.2f} times at two views and {bounds[4]:.2f} at four. On shards of 256 pixels decoding takes "
        f"{small:.2f} ms, which bounds their gain at {loader / (small + rest):.2f} times.\n\n"
        f"libjpeg-turbo's fast IDCT moves a pixel by {levels['mean']:.2f} levels of 255 on average and "
        f"{levels['largest']:.0f} at most. The loader keeps the exact one."
    )


def what_splicing_saves(lines: list[dict[str, Any]]) -> str:
    """Processor time on addressable shards beside ordinary ones; empty where either was not measured."""
    cpu_ms = {line["contender"]: line["cpu_ms_per_image"]["median"] for line in lines}
    pairs = [
        (rate, cpu_ms[f"ours, addressable, random, keep {rate}"], cpu_ms[f"ours, random, keep {rate}"])
        for rate in ("0.2", "1")
        if {f"ours, addressable, random, keep {rate}", f"ours, random, keep {rate}"} <= cpu_ms.keys()
    ]
    if not pairs:
        return ""
    told = ", ".join(f"{spliced:.2f} and {whole:.2f} ms at keep rate {rate}" for rate, spliced, whole in pairs)
    return f"Processor time for an image of an addressable JPEG and for one of an ordinary JPEG: {told}."


def step_section(result: dict[str, Any]) -> str:
    form = ",.1f" if result.get("device") == "cuda" else ",.0f"
    rows = [
        [
            str(line["num_kept"]),
            line["way"],
            extremes({key: 1000 * line["step_s"][key] for key in ("median", "min", "max")}, form),
            extremes(line["speed_over_timm"], ".2f"),
            extremes(line["speed_of_ours_over_this"], ".2f") if "speed_of_ours_over_this" in line else "",
        ]
        for line in result["steps"]
    ]
    return "\n".join(
        [
            "## The training step\n",
            machine(result),
            f"\n`{result['model']}`, {result['precision']}{', compiled' if result.get('compile') else ''}, "
            f"{result['batch_size']} images that are at hand in uint8: "
            "normalising, forward, backward and the optimizer. `timm` is its model at full patches, `patch_drop_rate` "
            "its patch dropout behind the embedding, `naflex` its NaFlexVit on the kept patches; `paper` embeds all "
            "patches and keeps those of largest norm.\n",
            table(["patches", "", "ms", "times as fast as timm's full step", "ours is so many times as fast"], rows),
        ]
    )


def attention_bias_section(result: dict[str, Any]) -> str:
    def milliseconds(found: dict[str, Any]) -> str:
        return extremes({key: 1000 * found[key] for key in ("median", "min", "max")}, ",.1f")

    def row(line: dict[str, Any], what: str) -> list[str]:
        clocks = [milliseconds(line[clock]) for clock in ("step_s", "step_cpu_s")]
        ratios = [extremes(line[over], ".3f") if over in line else "" for over in ("over_ours", "over_none")]
        return [what, line["way"], *clocks, *ratios]

    rows = [row(line, "step") for line in result["steps"]] + [row(line, "bias alone") for line in result["bias_alone"]]
    before, ours = (next(line["calls"] for line in result["steps"] if line["way"] == way) for way in ("before", "ours"))
    return "\n".join(
        [
            "## BEiT's bias\n",
            machine(result),
            f"\n`{result['model']}` at {result['num_kept']} of 196 patches, {result['precision']}, "
            f"{result['batch_size']} images that are at hand in uint8, {result['cores']} thread(s): forward and "
            "backward. `before` looked the table up heads last and in float32, by an operation whose backward pass "
            f"sorts its indices on a GPU: it called that {before['embedding_dense_backward']} times a step, `ours` "
            f"calls it {ours['embedding_dense_backward']} times and `scatter_add_`, which sorts nothing, "
            f"{ours['scatter_add_']} times. `bias alone` is the bias of all blocks and the gradient of their tables, "
            "without attention between them. Ratios are of elapsed time on a GPU, of processor time elsewhere.\n",
            table(["", "", "ms", "ms of the processor", "times ours", "times that without bias"], rows),
        ]
    )


def epoch_section(result: dict[str, Any]) -> str:
    rows = [
        [
            line["contender"],
            extremes(line["epoch_s"], ".1f"),
            ", ".join(f"{stage['num_kept']}: {1000 * stage['step_s']['median']:.0f}" for stage in line["stages"]),
            f"{max(stage['wait_share']['median'] for stage in line['stages']):.1%}",
        ]
        for line in result["contenders"]
    ]
    ratios = [ratio_line("epoch_of", "at most", line) for line in result["ratios"]]
    head = ["", "epoch, s", "ms a step at each number of patches", "longest wait for the loader in a stage"]
    return "\n".join(
        [
            "## An epoch\n",
            machine(result),
            f"\n`{result['model']}`, {result['precision']}, an epoch of {result['steps']} steps of "
            f"{result['batch_size']} photographs, schedule cyclic (0.2, 1.0) with `random` patches. timm's model drops "
            "the same numbers of patches after it has embedded all of them.\n",
            table(head, rows),
            "",
            *ratios,
        ]
    )


def scale_section(result: dict[str, Any]) -> str:
    sizes = [
        [f"{line['num_samples']:,}", line["rule"], line["shuffle"], extremes(line["plan_ms"], ".2f")]
        for line in result["plans_over_sizes"]
        if line["rule"] in ("random", "contrast") and line["num_samples"] in (10**4, 10**6, 10**9)
    ]
    augments = [
        [line["augment"], line["rule"], extremes(line["plan_ms"], ".2f"), f"{line['plan_cpu_ms']['median']:.2f}"]
        for line in result["plans_over_settings"]
    ]
    ranks = [[f"{line['world_size']:,}", extremes(line["plan_ms"], ".2f")] for line in result["plans_over_ranks"]]
    indexes = [
        [
            f"{line['num_samples']:,}",
            f"{line['num_shards']:,}",
            f"{line['index_mib']:,}",
            extremes(line["open_s"], ".4f"),
        ]
        for line in result["indexes"]
    ]
    starts = [
        [f"{line['num_samples']:,}", f"{line['num_shards']:,}", extremes(line["startup_s"], ".2f")]
        for line in result["start_ups"]
    ]
    loaders = [
        [
            TITLES[line["data_set"]].split(",")[0],
            str(line["threads"]),
            str(line["batch_size"]),
            extremes(line["images_per_s"], ",.0f"),
        ]
        for line in result["loader"]
    ]
    targets = result["targets"]
    return "\n\n".join(
        [
            "## Growth",
            machine(result),
            f"Planning a step of {result['step_samples']:,} samples, in ms (hoped for: under {targets['plan_ms']:g}). "
            "`window` shuffles within a few shards at a time.",
            table(["samples", "rule", "shuffle", "ms"], sizes),
            "The same at 10^9 samples, over the settings of augmentation:",
            table(["augmentation", "rule", "ms", "CPU ms"], augments),
            "Where the time of the last goes, in ms a plan under Python's profiler, which adds to it: "
            + ", ".join(f"`{one['function']}` {one['ms_a_plan']:.2f}" for one in result["plan_profile"])
            + ".",
            "One rank's 256 rows of a global batch, every augmentation on, rule `random`:",
            table(["ranks", "ms"], ranks),
            "Opening an index:",
            table(["samples", "shards", "index, MiB", "s"], indexes),
            "From nothing but imports to the loader's first batch (hoped for: under "
            f"{targets['startup_s']:g} s at 10^6 samples in 1,000 shards):",
            table(["samples", "shards", "s"], starts),
            "The loader, rule `contrast`, keep rate 0.6:",
            table(["data set", "threads", "batch", "images/s"], loaders),
        ]
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "loader": loader_section,
    "loader_real_photographs": partial(loader_section, title="The loader on real photographs"),
    "step": step_section,
    "step_s16": step_section,
    "attention_bias": attention_bias_section,
    "levels": levels_section,
    "levels_table": levels_table_section,
    "epoch": epoch_section,
    "scale": scale_section,
    "predicted_hosts": predicted_hosts_section,
}
COMMANDS = {name: f"python -m benchmarks.{name}" for name in SECTIONS} | {
    "loader_real_photographs": "python -m benchmarks.loader --data data/real-photographs --data-sets photographs "
    "--out benchmarks/results/loader_real_photographs.json",
    "levels_table": "python -m benchmarks.levels --table",
}


def section(name: str) -> str | None:
    """A benchmark's section from its raw result, None where there is none."""
    path = RESULTS / f"{name}.json"
    return SECTIONS[name.removesuffix("_gpu")](json.loads(path.read_text())) if path.exists() else None


def acceptance_section(folder: Path) -> str:
    """What tools/gpu_acceptance.sh measured on one card: its own lines of the stages that measure speed."""
    found = json.loads((folder / "summary.json").read_text())
    machine_line = next(stage for stage in found["stages"] if stage["stage"] == "environment")["figures"][0]
    facts = ast.literal_eval(machine_line.removeprefix("machine: "))
    lines = [line for stage in found["stages"] if stage["stage"] in _ACCEPTED for line in (*stage["figures"], "")]
    return (
        f"### {found['card']}\n\n`bash tools/gpu_acceptance.sh --quick`, {facts['cores']} cores of {facts['cpu']}, "
        f"driver {facts['driver']}, torch {facts['torch']}; raw: "
        f"[`{folder.name}`](../benchmarks/results/{folder.name}/summary.md), where [the page on GPUs](gpu.md) says "
        "what else was run.\n\n```text\n" + "\n".join(lines).rstrip() + "\n```"
    )


def main() -> None:
    text = TEXT.read_text()
    for name in SECTIONS:
        text = text.replace(f"{{{name}}}", section(name) or f"(`{COMMANDS[name]}`: not run yet)")
    measured = [acceptance_section(folder) for folder in sorted(RESULTS.glob("gpu_acceptance_*"))]
    measured += [found for name in SECTIONS if (found := section(f"{name}_gpu")) is not None]
    PAGE.write_text(text.replace("{gpu}", "\n\n".join(measured) or "Nothing has been measured on a GPU yet."))
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
