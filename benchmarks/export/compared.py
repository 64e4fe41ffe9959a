"""A run's validation set through timm, by nothing but the export, beside what the run made of it."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from tqdm import tqdm

from engine.evaluation.inference import load_classifier_run
from engine.evaluation.trained import validation_images
from pipeline.shards.data_sets import open_first_val
from pipeline.shards.reader import SampleReader
from tools.command import bar_interval_s

BATCH_SIZE = 100
COMPARED_IMAGES = 1000


@dataclass(frozen=True)
class Agreement:
    """What timm makes of an export, beside what the run says. Accuracies are shares of 1.

    Attributes:
        preprocessing: as timm reads it from the export.
        same_class: share of the compared images for which both sides' largest logit is of one class.
        logit_difference, pixel_difference: over the compared images, maximum and mean of the absolute differences; a
            pixel's in levels of 256.
    """

    run: str
    preprocessing: dict[str, Any]
    num_images: int
    top1_of_the_run: float
    top1_of_timm: float
    compared_images: int
    same_class: float
    logit_difference: dict[str, float]
    pixel_difference: dict[str, float]

    def __str__(self) -> str:
        return (
            f"{self.run}: top-1 {self.top1_of_the_run:.2%} by the run, {self.top1_of_timm:.2%} by plain timm, "
            f"{self.num_images} images; of the first {self.compared_images}, {self.same_class:.2%} are given the same "
            f"class, logits differ by {self.logit_difference['max']:.3g} at most, pixels by "
            f"{self.pixel_difference['max']:.3g} levels"
        )


def agreement(folder: Path, compared: int = COMPARED_IMAGES) -> Agreement:
    """Put a finished classification run's whole validation set through timm.

    Raises:
        ValueError, OSError: it is no such run, or its validation set cannot be read.
    """
    trained = load_classifier_run(folder)
    summary = json.loads((folder / "summary.json").read_text())
    if "1.0" not in summary["top1"]:
        raise ValueError(
            f"{folder} was not validated at full patches, where alone timm's model looks; see eval.keep_rates"
        )
    model: Any = timm.create_model(f"local-dir:{folder / 'model'}", pretrained=True).eval()
    preprocessing = resolve_data_config({}, model=model)
    index = open_first_val(trained.config.data)
    ids = index.sample_ids(np.arange(index.num_samples))
    inputs, logits, compared = [], [], min(compared, len(ids))
    transform, starts = create_transform(**preprocessing), range(0, len(ids), BATCH_SIZE)
    with SampleReader(index) as reader:
        for start in tqdm(starts, desc=folder.name, unit="batch", mininterval=bar_interval_s()):
            files = reader.read(ids[start : start + BATCH_SIZE])
            batch = torch.stack([transform(Image.open(io.BytesIO(file.tobytes())).convert("RGB")) for file in files])
            logits.append(_logits(model, batch))
            inputs.append(batch[: max(0, compared - start)])
    answers, labels = torch.cat(logits), torch.from_numpy(index.label[ids].astype(np.int64))
    mean, std = (torch.tensor(preprocessing[name]).view(3, 1, 1) for name in ("mean", "std"))
    levels = torch.from_numpy(validation_images(trained.config, compared)).permute(0, 3, 1, 2)
    ours = torch.cat([_logits(model, (part / 255 - mean) / std) for part in levels.split(BATCH_SIZE)])
    return Agreement(
        run=folder.name,
        preprocessing=preprocessing,
        num_images=len(ids),
        top1_of_the_run=summary["top1"]["1.0"],
        top1_of_timm=(answers.argmax(1) == labels).double().mean().item(),
        compared_images=compared,
        same_class=(answers[:compared].argmax(1) == ours.argmax(1)).double().mean().item(),
        logit_difference=_difference(answers[:compared], ours),
        pixel_difference=_difference((torch.cat(inputs) * std + mean) * 255, levels),
    )


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return model(batch)


def _difference(a: Tensor, b: Tensor) -> dict[str, float]:
    apart = (a - b).abs().double()
    return {"max": apart.max().item(), "mean": apart.mean().item()}
