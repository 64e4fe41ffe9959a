"""A trained classifier at any keep rate, on images that are in memory, in files or in shards.

The patches are selected by the functions the pipeline selects with, so a model answers as it does in validation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.evaluation.exported import check_all_loaded, class_names, exported_model
from engine.evaluation.image_files import preprocessed
from engine.evaluation.trained import Trained, load_trained
from engine.models.patch_embed import PatchModel, Sizes
from engine.run.finished import check_classifier
from engine.snapshots import take_snapshot
from pipeline.batch import Batch
from pipeline.config import DataConfig
from pipeline.cores import allowed_cores, loader_threads
from pipeline.graph.bad_samples import BadRow
from pipeline.graph.on_device import gather_on_device
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan.keyed import KeyedRows, Stream
from pipeline.plan.schedule import num_kept_at
from pipeline.plan.step import ValidationPlanner
from pipeline.selection.config import SelectionConfig, open_scores, rule_forms, rule_from_text, rule_name, select
from pipeline.selection.rules import Scores
from pipeline.selection.snapshots import fixed_board
from pipeline.shards.index import ShardIndex

_NO_RULE = f"an exported model has no rule of its own: name one, {rule_forms()}"


def load_classifier_run(folder: Path | str, overrides: list[str] | None = None) -> Trained:
    """``load_trained`` for runs that trained a classifier.

    Raises:
        ValueError, OSError: it is no finished run, or one of pre-training, or its weights do not fill the model.
    """
    trained = load_trained(folder, overrides)
    check_classifier(folder, trained.config)
    check_all_loaded(trained.model)
    return trained


@dataclass(frozen=True)
class Answers:
    """What a model says of some samples of a set.

    Attributes:
        sample_ids: int64 [B], of the index.
        logits: [B, num_classes], on the CPU.
        bad: the samples of the same batch that cannot be used, which are not among the B.
    """

    sample_ids: np.ndarray
    logits: Tensor
    bad: tuple[BadRow, ...]


class Classifier:
    """A model whose weights stay as they are, and the rule by which it looks at images.

    Args:
        model: put into eval mode. It answers on the device and in the precision that it has.
        selection: the rule where a call names none; None: every call names its own.
        seed: key of what the rules draw, where a call names none.
        data: how validation makes of an image what the model sees; None: only images that are ready are taken.

    Attributes:
        image_size: side of the images that the model was configured for, in pixels.
        class_names: in the order of the logits; None where nobody named the classes.
    """

    def __init__(
        self,
        model: PatchModel,
        selection: SelectionConfig | None,
        seed: int = 0,
        data: DataConfig | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        self.model, self.selection, self.seed = model.eval(), selection, seed
        self.data, self.class_names = data, class_names
        self.image_size = model.patch_embed.img_size[0]
        self._opened: dict[tuple[SelectionConfig, int, Sizes], Scores | None] = {}

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
            model, data, names = exported_model(folder)
            return cls(model, selection, data=data, class_names=names)
        trained = load_classifier_run(folder)
        config, names = trained.config, class_names(folder / "model", trained.model.num_classes)
        return cls(trained.model, selection or config.selection, config.seed, config.data, names)

    @property
    def num_patches(self) -> int:
        """Of a whole image, as configured."""
        return self.model.patch_embed.num_patches

    def preprocess(
        self,
        images: Sequence[Image.Image | Path | str | bytes],
        *,
        image_size: int | None = None,
        patch_size: int | None = None,
    ) -> Tensor:
        """Images as validation shows them to the model, for ``logits``: uint8 [B, S, S, 3].

        Args:
            images: PIL images, paths of files of a kind that shards may hold, or the bytes of such files. Orientation
                tags are ignored, as in training.
            image_size, patch_size: as ``logits`` will be given them.

        Raises:
            ValueError: no image, or one that the loader does not decode; names it.
            OSError, TypeError: a file cannot be read, or it is no image at all.
        """
        data = self._known_data().at(image_size, patch_size)
        return torch.from_numpy(preprocessed(images, data, _num_threads(data)))

    def answers(
        self,
        index: ShardIndex,
        keep_rate: float = 1.0,
        rule: SelectionConfig | None = None,
        *,
        batch_size: int = 128,
        first_row: int = 0,
        image_size: int | None = None,
        patch_size: int | None = None,
    ) -> Iterator[Answers]:
        """The answers about all samples of a set that are not excluded, read and selected as validation does it.

        Samples that cannot be decoded are left out and named.

        Args:
            keep_rate, rule, image_size, patch_size: as for ``logits``.
            batch_size: images per forward pass.
            first_row: as for ``logits``.

        Raises:
            ValueError: a rule, a keep rate, sizes or score maps that do not fit.
            BadSampleError: no sample can be decoded.
            StaleIndexError, UnreadableUnitsError, OSError: a shard that cannot be read.
        """
        selection = rule or self.selection
        if selection is None:
            raise ValueError(_NO_RULE)
        device = next(self.model.parameters()).device
        data = self._known_data().at(image_size, patch_size).model_copy(update={"on_bad_sample": "skip"})
        if device.type != "cuda":
            data = data.model_copy(update={"device": "cpu"})
        batch_size = min(batch_size, index.num_samples)
        snapshot = None
        if selection.needs_model:
            snapshot = take_snapshot(self.model, 0, image_size=image_size, patch_size=patch_size)
        planner = ValidationPlanner(index, data, selection, keep_rate, batch_size, self.seed, first_row)
        with PatchLoader(
            planner,
            validation_plans(planner),
            batch_size=batch_size,
            num_threads=_num_threads(data),
            device_id=device.index or 0 if data.device == "gpu" else None,
            device=device,
            snapshots=None if snapshot is None else fixed_board(snapshot),
        ) as loader:
            for batch in loader:
                counted = batch.plan.counted
                logits = self.logits(batch, image_size=image_size, patch_size=patch_size).float().cpu()
                yield Answers(batch.plan.sample_ids[counted], logits[torch.from_numpy(counted)], batch.bad)

    def _known_data(self) -> DataConfig:
        if self.data is None:
            raise ValueError(
                "this classifier was made of a model alone and does not know how validation prepares its images: make "
                "it with Classifier.load, or give it data"
            )
        return self.data

    def logits(
        self,
        images: Tensor | Batch,
        keep_rate: float | None = None,
        rule: str | SelectionConfig | None = None,
        *,
        seed: int | None = None,
        first_row: int = 0,
        map_scores: np.ndarray | None = None,
        image_size: int | None = None,
        patch_size: int | None = None,
    ) -> Tensor:
        """Logits [B, num_classes] on the model's device, without gradients.

        Args:
            images: uint8 [B, S, S, 3], RGB, resized to S = ``image_size``, on any device; or a loader's batch, whose
                patches are selected already.
            keep_rate: share of the patches to look at, in (0, 1]; None: all of them. Not with a batch.
            rule: one of ``rule_forms()``, or a selection; None: the classifier's own. Not with a batch.
            seed: key of what the rule draws; None: the classifier's own.
            first_row: row of the first image among the images that are drawn for; the images of one set given in
                pieces count on, and in the order of the validation set they get the patches that validation keeps.
            map_scores: float32 [B, N], the scores of the patches under a rule ``map:NAME``, which pixels do not tell:
                of images out of shards by ``trained.validation_map_scores``, of files by ``file_maps.file_scores``.
            image_size, patch_size: in pixels, of the images and of the patches that they are cut into, where they are
                to be others than the model was configured for; of a batch those that it was made at.

        Raises:
            ValueError: images of another shape or type, a rate that keeps no patch, or a rule or sizes that do not fit.
        """
        device = next(self.model.parameters()).device
        sizes = self.model.patch_embed.sizes(image_size, patch_size)
        if isinstance(images, Batch):
            if keep_rate is not None or rule is not None or map_scores is not None:
                raise ValueError(
                    "the patches of a batch are selected already: leave out keep_rate, rule and map_scores"
                )
            batch = images.to(device)
            patches, ids_keep = batch.patches, batch.ids_keep
        else:
            rate = 1.0 if keep_rate is None else keep_rate
            ids_keep = self._select(images, rate, rule, sizes, seed, first_row, map_scores)
            patches = gather_on_device(images, ids_keep, sizes.patch_size)
        with torch.no_grad():
            return self.model(patches.to(device), ids_keep.to(device), **sizes._asdict())

    def select(
        self,
        images: Tensor,
        keep_rate: float,
        rule: str | SelectionConfig | None = None,
        *,
        seed: int | None = None,
        first_row: int = 0,
        map_scores: np.ndarray | None = None,
        image_size: int | None = None,
        patch_size: int | None = None,
    ) -> Tensor:
        """The patches that are kept of images: int32 [B, K] on the CPU, ascending. Arguments as for ``logits``."""
        sizes = self.model.patch_embed.sizes(image_size, patch_size)
        return self._select(images, keep_rate, rule, sizes, seed, first_row, map_scores)

    def _select(
        self,
        images: Tensor,
        keep_rate: float,
        rule: str | SelectionConfig | None,
        sizes: Sizes,
        seed: int | None,
        first_row: int,
        map_scores: np.ndarray | None,
    ) -> Tensor:
        _check_images(images, sizes.image_size)
        selection = rule_from_text(rule) if isinstance(rule, str) else rule or self.selection
        num_patches = sizes.num_patches
        num_kept = num_kept_at(keep_rate, num_patches)
        if num_kept == num_patches:  # whatever the rule
            return torch.arange(num_patches, dtype=torch.int32).expand(len(images), -1)
        if selection is None:
            raise ValueError(_NO_RULE)
        seed = self.seed if seed is None else seed
        rows = KeyedRows(seed, 0, first_row, len(images))
        noise = rows.uniform(Stream.VALIDATION_SELECTION, selection.noise_columns(num_patches))
        check_map_scores(selection, map_scores, (len(images), num_patches))
        scores = self._scores(selection, seed, sizes)
        table = map_scores if scores is None else scores(list(images.cpu().numpy()))
        return torch.from_numpy(select(table, noise, num_kept, sizes.grid_size, selection))

    def _scores(self, selection: SelectionConfig, seed: int, sizes: Sizes) -> Scores | None:
        key = (selection, seed, sizes)
        if key not in self._opened:
            snapshot = take_snapshot(self.model, 0, **sizes._asdict()) if selection.needs_model else None
            self._opened[key] = open_scores(selection, sizes.grid_size, snapshot=snapshot, seed=seed)
        return self._opened[key]


def _check_images(images: Tensor, size: int) -> None:
    """Raise ValueError unless there are images uint8 [B, size, size, 3]."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images are a uint8 tensor [B, {size}, {size}, 3] or a batch, got {type(images).__name__}")
    if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (size, size, 3):
        raise ValueError(
            f"images are uint8 [B, {size}, {size}, 3], resized to the model's size or to image_size, channels last; "
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


def _num_threads(data: DataConfig) -> int:
    return data.num_threads or loader_threads(allowed_cores())
