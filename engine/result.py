"""The end of a run: export, summary, table."""

import json
from typing import Any

from torch import Tensor

from engine.checkpoints.checkpoint import full_weights, weights_digest
from engine.evaluation.evaluate import Accuracy, Evaluation, by_set
from engine.metrics import read_metrics, rows_by_keep_rate, sizes_of, stage_table, train_cpu_s, train_wall_s
from engine.models.card import MEASURES, model_card
from engine.models.masked_autoencoder import MaskedAutoencoder
from engine.models.weights import export_model
from engine.ranks.hardware import describe_hardware
from engine.trainer import Run
from pipeline.files import write_atomically


def finish(run: Run, evaluations: list[Evaluation], steps: int) -> None:
    """Write ``model/`` and ``summary.json`` and print the table. Collective."""
    weights = full_weights(run.engine)
    if not run.world.is_first:
        return
    averages = None if run.average is None else run.average.weights()
    _export(run, weights if averages is None else averages, _by_keep_rate(_of_first_set(evaluations)))
    lines = read_metrics(run.folder / "metrics.jsonl")
    data = run.config.data
    summary = summarise(
        lines,
        evaluations,
        steps,
        run.config.train.global_batch_size,
        weights_digest(weights),
        full_sizes=(data.image_size, data.patch_size),
    )
    summary |= {"ranks": run.world.size, "hardware": describe_hardware()}  # of the start that ended the run
    if averages is not None:
        summary["ema_digest"] = weights_digest(averages)
    write_atomically(run.folder / "summary.json", json.dumps(summary, indent=2) + "\n", sync=True)
    print(table(summary) + f"\nrun folder: {run.folder}", flush=True)


def _export(run: Run, weights: dict[str, Tensor], measured: dict[str, dict[str, float]]) -> None:
    """Write ``model/``, the one place where weights leave a run: all of them whole, on the first rank."""
    config, model, folder = run.config, run.engine.module, run.folder / "model"
    names = _class_names(run.prepared.class_names, config.data.num_classes)
    export_model(
        model.encoder_weights(weights) if isinstance(model, MaskedAutoencoder) else weights,
        folder,
        timm_name=model.timm_name,
        model_args=model.timm_args,
        data=config.data,
        class_names=names,
    )
    measure = next(one for one in MEASURES if one in measured)
    card = model_card(model.timm_name, config.data, names, measure, measured[measure])
    write_atomically(folder / "README.md", card, sync=True)


def _class_names(names: list[str], num_classes: int) -> list[str] | None:
    """Class names as the conversion wrote them; None where the shards came without, or with other classes."""
    return names if len(names) == num_classes else None


def summarise(
    lines: list[dict[str, Any]],
    evaluations: list[Evaluation],
    steps: int,
    global_batch_size: int,
    digest: str,
    *,
    full_sizes: tuple[int | None, int | None] = (None, None),
) -> dict[str, Any]:
    """``summary.json``: times in seconds over all starts of the run, accuracies as shares of 1.

    Of several validation sets the first one's results stand where those of a single set stand; ``val`` has all.

    Args:
        full_sizes: of the full image and its patches, in pixels; None where the lines tell none.
    """
    stages = stage_table(lines)
    wall_s = train_wall_s(lines)
    full = next(
        (one for one in stages if one["keep_rate"] == 1.0 and sizes_of(one) in (full_sizes, (None, None))), None
    )
    held = {name: _by_keep_rate(of_set) for name, of_set in by_set(evaluations).items() if name is not None}
    return {
        **_by_keep_rate(_of_first_set(evaluations)),
        **({"val": held} if held else {}),
        "train_wall_s": wall_s,
        "train_cpu_s": train_cpu_s(lines),
        "full_patches_train_wall_s": full["step_s"] * steps if full else None,
        "steps": steps,
        "mean_keep_rate": sum(s["keep_rate"] * s["num_steps"] for s in stages) / sum(s["num_steps"] for s in stages),
        "images_per_s": steps * global_batch_size / wall_s,
        "stages": stages,
        "weights_digest": digest,
    }


def _of_first_set(evaluations: list[Evaluation]) -> list[Evaluation]:
    return next(iter(by_set(evaluations).values()), [])


def _by_keep_rate(evaluations: list[Evaluation]) -> dict[str, dict[str, float]]:
    """What was measured on the validation set, each by keep rate."""
    accuracies = [one for one in evaluations if isinstance(one, Accuracy)]
    if len(accuracies) < len(evaluations):
        return {"reconstruction_loss": {str(one.keep_rate): one.loss for one in evaluations}}
    return {
        "top1": {str(one.keep_rate): one.top1 for one in accuracies},
        "top5": {str(one.keep_rate): one.top5 for one in accuracies},
    }


def table(summary: dict[str, Any]) -> str:
    """The end of a run for people."""
    of_pretraining = "reconstruction_loss" in summary
    measure, measured = ("loss", summary["reconstruction_loss"]) if of_pretraining else ("top-1", summary["top1"])
    # A host that runs ahead of a GPU may wait for the loader while the GPU works.
    on_gpu = bool(summary.get("hardware", {}).get("gpus"))
    head = f"{'keep rate':>9}  {measure:>7}  {'patches':>7}  {'steps':>6}  {'images/s':>8}  {'loader wait':>11}"
    with_sizes = len({sizes_of(stage) for stage in summary["stages"]}) > 1
    rows = ["", head + (f"  {'idle':>5}" if on_gpu else "") + (f"  {'pixels':>9}" if with_sizes else "")]
    for rate, stage in rows_by_keep_rate(summary["stages"], measured):
        value = measured.get(str(rate))
        result = " " * 7 if value is None else f"{value:7.4f}" if of_pretraining else f"{value:7.2%}"
        speed = (
            f"{stage['num_kept']:7d}  {stage['num_steps']:6d}  {stage['images_per_s']:8.0f}  "
            f"{stage['loader_wait_share']:11.0%}{_idle(stage) if on_gpu else ''}"
            if stage
            else f"{'not trained at this rate':>38}"
        )
        sizes = "  {:>5} / {}".format(*sizes_of(stage)) if stage and with_sizes else ""
        rows.append(f"{rate:9.3g}  {result}  {speed}{sizes}")
    wall_s, full_s = summary["train_wall_s"], summary["full_patches_train_wall_s"]
    rows.extend(_other_sets(summary, of_pretraining))
    rows.append("")
    rows.append(
        f"training took {wall_s:.0f} s for {summary['steps']} steps "
        f"at a mean keep rate of {summary['mean_keep_rate']:.3f}"
    )
    if full_s:
        rows.append(
            f"the same steps at full patches would take about {full_s:.0f} s, by this run's own full-patch steps; "
            f"this run took {wall_s / full_s:.0%} of that"
        )
    elif not of_pretraining:
        rows.append("no step of this run was at full patches, so there is nothing to compare with")
    return "\n".join(rows)


def _other_sets(summary: dict[str, Any], of_pretraining: bool) -> list[str]:
    """A line for each of several validation sets; the table is the first one's."""
    lines = []
    for name, measured in summary.get("val", {}).items():
        values = measured["reconstruction_loss" if of_pretraining else "top1"]
        shown = (f"{float(rate):g}: {f'{one:.4f}' if of_pretraining else f'{one:.2%}'}" for rate, one in values.items())
        lines.append(f"on {name}, by keep rate  {'  '.join(shown)}")
    if lines:
        return ["", f"validation sets; the table above is of {next(iter(summary['val']))}", *lines]
    return []


def _idle(stage: dict[str, Any]) -> str:
    idle_s = stage["device_idle_s"]
    return f"  {'-':>5}" if idle_s is None else f"  {idle_s / stage['step_s']:5.0%}"
