"""A trained classifier at any keep rate, on images that are in memory.

The patches are selected by the functions the pipeline selects with, so a model answers as it does in validation.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.evaluation.trained import Trained, load_trained
from engine.models.build import build_model, configurable_options
from engine.models.patch_embed import PatchModel
from engine.models.weights import EXPORTED_FILES
from engine.run.finished import check_classifier
from engine.snapshots import take_snapshot
from pipeline.batch import Batch
from pipeline.graph.on_device import gather_on_device
from pipeline.plan.keyed import KeyedRows, Stream
from pipeline.plan.schedule import num_kept_at
from pipeline.selection.config import SelectionConfig, open_scores, rule_forms, rule_from_text, rule_name, select
from pipeline.selection.rules import Scores

_WHAT_LOADS = "give a run's folder, such as runs/fashion_mnist, or an exported model's, such as its model/"


def load_classifier_run(folder: Path | str, overrides: list[str] | None = None) -> Trained:
    """``load_trained`` for runs that trained a classifier.

    Raises:
        ValueError, OSError: it is no finished run, or one of pre-training, or its weights do not fill the model.
    """
    trained = load_trained(folder, overrides)
    check_classifier(folder, trained.config)
    _check_all_loaded(trained.model)
    return trained


def _check_all_loaded(model: PatchModel) -> None:
    """Fine-tuning may start with a new classifier, but a model that answers has to be whole."""
    report = model.load_report
    assert report is not None
    left_out = (*report.missing, *report.shape_mismatched)
    if left_out:
        raise ValueError(
            f"the weights in {report.source} do not fill the model as it is described: {', '.join(left_out)} would "
            "stay random; leave data and model as they were in training"
        )


class Classifier:
    """A model whose weights stay as they are, and the rule by which it looks at images.

    Args:
        model: put into eval mode. It answers on the device and in the precision that it has.
        selection: the rule where a call names none; None: every call names its own.
        seed: key of what the rules draw, where a call names none.

    Attributes:
        image_size: side of the images, in pixels.
    """

    def __init__(self, model: PatchModel, selection: SelectionConfig | None, seed: int = 0) -> None:
        self.model, self.selection, self.seed = model.eval(), selection, seed
        self.image_size, self._grid_size = model.patch_embed.img_size[0], model.patch_embed.grid_size[0]
        self._opened: dict[tuple[SelectionConfig, int], Scores | None] = {}

    @classmethod
    def load(cls, folder: Path | str, rule: str | SelectionConfig | None = None) -> "Classifier":
        """From a finished run's folder, or an exported model's (``model/`` of a run, wherever it was copied to).

        Args:
            rule: instead of the rule the run was trained with, which an export does not know.

        Raises:
            ValueError, OSError: it is neither, or the run is not done or was no classification.
        """
        folder = Path(folder)
        selection = rule_from_text(rule) if isinstance(rule, str) else rule
        if not (folder / "config.yaml").exists():
            return cls(_exported_model(folder), selection)
        trained = load_classifier_run(folder)
        return cls(trained.model, selection or trained.config.selection, trained.config.seed)

    def logits(
        self,
        images: Tensor | Batch,
        keep_rate: float | None = None,
        rule: str | SelectionConfig | None = None,
        *,
        seed: int | None = None,
        first_row: int = 0,
        map_scores: np.ndarray | None = None,
    ) -> Tensor:
        """Logits [B, num_classes] on the model's device, without gradients.

        Args:
            images: uint8 [B, S, S, 3], RGB, resized to ``image_size``, on any device; or a loader's batch, whose
                patches are selected already.
            keep_rate: share of the patches to look at, in (0, 1]; None: all of them. Not with a batch.
            rule: one of ``rule_forms()``, or a selection; None: the classifier's own. Not with a batch.
            seed: key of what the rule draws; None: the classifier's own.
            first_row: row of the first image among the images that are drawn for; the images of one set given in
                pieces count on, and in the order of the validation set they get the patches that validation keeps.
            map_scores: float32 [B, N], the scores of the patches under a rule ``map:NAME``, which pixels do not tell:
                of images out of shards by ``trained.validation_map_scores``, of files by ``file_maps.file_scores``.

        Raises:
            ValueError: images of another shape or type, a rate that keeps no patch, or a rule that does not fit.
        """
        device = next(self.model.parameters()).device
        if isinstance(images, Batch):
            if keep_rate is not None or rule is not None or map_scores is not None:
                raise ValueError(
                    "the patches of a batch are selected already: leave out keep_rate, rule and map_scores"
                )
            patches, ids_keep = images.patches, images.ids_keep
        else:
            rate = 1.0 if keep_rate is None else keep_rate
            ids_keep = self.select(images, rate, rule, seed=seed, first_row=first_row, map_scores=map_scores)
            patches = gather_on_device(images, ids_keep, self.image_size // self._grid_size)
        with torch.no_grad():
            return self.model(patches.to(device), ids_keep.to(device))

    def select(
        self,
        images: Tensor,
        keep_rate: float,
        rule: str | SelectionConfig | None = None,
        *,
        seed: int | None = None,
        first_row: int = 0,
        map_scores: np.ndarray | None = None,
    ) -> Tensor:
        """The patches that are kept of images: int32 [B, K] on the CPU, ascending. Arguments as for ``logits``."""
        self._check(images)
        selection = rule_from_text(rule) if isinstance(rule, str) else rule or self.selection
        num_patches = self._grid_size**2
        num_kept = num_kept_at(keep_rate, num_patches)
        if num_kept == num_patches:  # whatever the rule
            return torch.arange(num_patches, dtype=torch.int32).expand(len(images), -1)
        if selection is None:
            raise ValueError(f"an exported model has no rule of its own: name one, {rule_forms()}")
        seed = self.seed if seed is None else seed
        rows = KeyedRows(seed, 0, first_row, len(images))
        noise = rows.uniform(Stream.VALIDATION_SELECTION, selection.noise_columns(num_patches))
        check_map_scores(selection, map_scores, (len(images), num_patches))
        scores = self._scores(selection, seed)
        table = map_scores if scores is None else scores(list(images.cpu().numpy()))
        return torch.from_numpy(select(table, noise, num_kept, self._grid_size, selection))

    def _scores(self, selection: SelectionConfig, seed: int) -> Scores | None:
        if (selection, seed) not in self._opened:
            snapshot = take_snapshot(self.model, 0) if selection.needs_model else None
            self._opened[selection, seed] = open_scores(selection, self._grid_size, snapshot=snapshot, seed=seed)
        return self._opened[selection, seed]

    def _check(self, images: Tensor) -> None:
        size = self.image_size
        if not isinstance(images, Tensor):
            raise ValueError(
                f"images are a uint8 tensor [B, {size}, {size}, 3] or a batch, got {type(images).__name__}"
            )
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (size, size, 3):
            raise ValueError(
                f"images are uint8 [B, {size}, {size}, 3], resized to the model's size, channels last; "
                f"got {images.dtype} {list(images.shape)}"
            )
        if not len(images):
            raise ValueError("images are at least one, got none")


def check_map_scores(selection: SelectionConfig, map_scores: np.ndarray | None, shape: tuple[int, int]) -> None:
    """Raise ValueError unless there are scores of this shape just where a rule looks at score maps."""
    name = rule_name(selection)
    if selection.needs_map and map_scores is None:
        raise ValueError(
            f"rule {name} looks at score maps, which pixels in memory do not tell: give map_scores, of images out of "
            "shards by trained.validation_map_scores, of files by file_maps.file_scores"
        )
    if map_scores is not None and not selection.needs_map:
        raise ValueError(f"rule {name} looks at no score maps; leave out map_scores, or give rule map:NAME")
    if map_scores is not None and map_scores.shape != shape:
        raise ValueError(f"map_scores are float32 {list(shape)}, a score a patch; got {list(map_scores.shape)}")


def _exported_model(folder: Path) -> PatchModel:
    """The model in a folder that ``engine.models.weights.export_model`` wrote.

    Raises:
        ValueError, OSError: its ``config.json`` or its weights cannot be used.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; {_WHAT_LOADS}")
    lost = [name for name in EXPORTED_FILES if not (folder / name).is_file()]
    if len(lost) == len(EXPORTED_FILES):
        raise ValueError(
            f"{folder} is no run folder and no exported model: it holds neither config.yaml nor "
            f"{' and '.join(EXPORTED_FILES)}; {_WHAT_LOADS}"
        )
    if lost:
        raise ValueError(f"the exported model in {folder} is not whole: it holds no {lost[0]}; copy it again")
    path = folder / "config.json"
    try:
        description = json.loads(path.read_text())
        name, args, preprocessing = (description[key] for key in ("architecture", "model_args", "pretrained_cfg"))
        known = configurable_options(name)
        model = build_model(
            name,
            image_size=preprocessing["input_size"][1],
            patch_size=args["patch_size"],
            num_classes=description["num_classes"],
            mean=preprocessing["mean"],
            std=preprocessing["std"],
            options={key: value for key, value in args.items() if key in known},
            pretrained=f"local-dir:{folder}",
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not describe a model as this project exports it: {error!r}") from None
    _check_all_loaded(model)
    return model
