"""Mosaics of a report: real images as the model sees them, under each rule at each keep rate."""

import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from engine.config import RunConfig
from engine.evaluation.inference import Classifier
from engine.evaluation.trained import build_run_model, load_trained, validation_images, validation_map_scores
from pipeline.plan.schedule import num_kept_at
from pipeline.selection.config import rule_from_text, rule_name
from pipeline.selection.patches import gather_patches, patchify
from pipeline.selection.rules import RULES
from tools.inspect.picture import greyed_out
from tools.report.page import Picture

KEEP_RATES = (1.0, 0.8, 0.6, 0.4, 0.2)
_NUM_IMAGES = 4
_CELL_PIXELS = 112
_GAP_PIXELS = 4
_NO_MODEL = "it looks through a trained model, and none was found"


def mosaics(config: RunConfig, run: Path | None, more_rules: tuple[str, ...] = ()) -> tuple[list[Picture], list[str]]:
    """A picture for each rule: a row for each of some validation images, a column for each keep rate.

    The patches are selected by the functions of the pipeline, as validation selects them.

    Args:
        run: the folder of a finished run, through whose model the rule ``magnitude`` looks; without one that rule is
            left out.
        more_rules: beside the standard ones, as ``rule_from_text`` reads them.

    Returns:
        The pictures, and lines about what was left out.

    Raises:
        ValueError, OSError: the validation set or the model cannot be opened, or an image cannot be decoded.
    """
    images = validation_images(config, _NUM_IMAGES)
    absent = []
    classifier = Classifier(load_trained(run).model if run else build_run_model(config), None, config.seed)
    standard = [name for name, rule in reversed(RULES.items()) if rule.looks_at != "map"]
    rules = list(dict.fromkeys((*more_rules, *standard)))
    if run is None:
        absent = [f"Mosaic of the rule {rule}: {_NO_MODEL}" for rule in rules if rule_from_text(rule).needs_model]
        rules = [rule for rule in rules if not rule_from_text(rule).needs_model]
    return [_picture(rule, classifier, images, config) for rule in rules], absent


def run_rule(config: RunConfig) -> tuple[str, ...]:
    """The run's own rule as text; none where it has a temperature, which a text does not name."""
    return () if config.selection.temperature else (rule_name(config.selection),)


def _picture(rule: str, classifier: Classifier, images: np.ndarray, config: RunConfig) -> Picture:
    rates = [rate for rate in KEEP_RATES if rate * (config.data.num_patches + 1) >= 1.5]
    name = rule_from_text(rule).map
    scores = None if name is None else validation_map_scores(config, len(images), name)
    columns = [_kept(images, classifier, rate, rule, config.data.patch_size, scores) for rate in rates]
    counts = ", ".join(f"{num_kept_at(rate, config.data.num_patches)} at {rate:g}" for rate in rates)
    return Picture(
        f"mosaic-{rule.replace(':', '-')}",
        _sheet(columns, [f"keep {rate:g}" for rate in rates]),
        f"{len(images)} validation images at keep rates {', '.join(f'{rate:g}' for rate in rates)} under the rule "
        f"{rule}: kept patches as they are, dropped ones faded to a bluish grey",
        f"{rule}: {RULES[rule.partition(':')[0]].about}. Patches kept of {config.data.num_patches}: {counts}.",
    )


def _kept(
    images: np.ndarray,
    classifier: Classifier,
    rate: float,
    rule: str,
    patch_size: int,
    map_scores: np.ndarray | None,
) -> np.ndarray:
    ids_keep = classifier.select(torch.from_numpy(images), rate, rule, map_scores=map_scores).numpy()
    kept = np.stack([gather_patches(image, ids, patch_size) for image, ids in zip(images, ids_keep, strict=True)])
    return greyed_out(patchify(images, patch_size), kept, ids_keep, patch_size)


def _sheet(columns: list[np.ndarray], titles: list[str]) -> bytes:
    """A PNG of images [columns][rows], with a title above each column, in 256 colours to stay small."""
    step = _CELL_PIXELS + _GAP_PIXELS
    head = _title_row(titles, step)
    rows = len(columns[0])
    sheet = Image.new("RGB", (len(columns) * step, head.height + rows * step), "white")
    sheet.paste(head, (0, 0))
    for i, column in enumerate(columns):
        for j, pixels in enumerate(column):
            image = Image.fromarray(pixels)
            how = Image.Resampling.NEAREST if image.width <= _CELL_PIXELS else Image.Resampling.BOX
            cell = image.resize((_CELL_PIXELS, _CELL_PIXELS), how)
            sheet.paste(cell, (i * step + _GAP_PIXELS // 2, head.height + j * step))
    sink = io.BytesIO()
    sheet.quantize(256).save(sink, "PNG", optimize=True)
    return sink.getvalue()


def _title_row(titles: list[str], step: int) -> Image.Image:
    height = 30
    figure = Figure(figsize=(len(titles) * step / 100, height / 100), dpi=100)
    for i, title in enumerate(titles):
        figure.text((i + 0.5) / len(titles), 0.5, title, ha="center", va="center", fontsize=12.5)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    with Image.open(sink) as drawn:
        return drawn.convert("RGB")
