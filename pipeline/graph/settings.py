"""What a graph is built for."""

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.config import DataConfig
from pipeline.graph.augmentation import input_names
from pipeline.graph.route import route_of
from pipeline.plan.schedule import Stage
from pipeline.plan.step import CropKind
from pipeline.selection.config import SelectionConfig

LastPart = Literal["decode", "augment", "select"]


@dataclass(frozen=True)
class GraphSettings:
    """What a graph is built for; a run has one for training and one for validation.

    Attributes:
        crop: how the plans that will flow through make their crops.
        batch_size: rows of the largest batch; smaller ones may flow through too.
        uniform_size: every image is already ``image_size`` square, so a pad crop needs no resize.
        device_id: the GPU under ``data.device: gpu``, else None.
        targets: the dropped patches come out as well, to be reconstructed.
        last_part: where the graph ends. What ends before the selection gives whole images and serves to measure what
            the parts of the work take.
        decoded: the images come decoded, as where some are kept for several steps. On a CPU.
        training: images are augmented as the configuration says; validation's are not.
        sizes_vary: images and patches of a batch may have other sizes than ``data`` says: those of its stage.
        whole_files: are read of addressable JPEGs too. Serves to measure what it takes and saves to leave units out.
    """

    data: DataConfig
    selection: SelectionConfig
    crop: CropKind
    batch_size: int
    num_threads: int
    uniform_size: bool = False
    device_id: int | None = None
    targets: bool = False
    last_part: LastPart = "select"
    decoded: bool = False
    training: bool = True
    whole_files: bool = False
    sizes_vary: bool = False

    def at(self, stage: Stage) -> "GraphSettings":
        """What holds for batches of a stage: ``data`` has its sizes."""
        data = self.data.at(stage.image_size, stage.patch_size)
        if data is self.data:
            return self
        assert self.sizes_vary, (stage, self.data.image_size, self.data.patch_size)
        return replace(self, data=data)

    @property
    def augments(self) -> bool:
        """Whether images are augmented beyond crop and flip, where the configuration says so."""
        return self.training and self.last_part != "decode"

    @property
    def selects_first(self) -> bool:
        """Whether patches are selected on the decoded crop, and only these are resampled."""
        route = route_of(self.data, self.selection)
        return self.device_id is None and route == "select_first"

    @property
    def mixes(self) -> bool:
        return self.augments and self.data.augment.mixes

    @property
    def makes_wholes(self) -> bool:
        """Whether some images are made whole before their patches are cut: for their operations, or for a partner."""
        return self.device_id is None and self.augments and (self.mixes or self.data.augment.auto is not None)

    @property
    def splices(self) -> bool:
        """Whether of an addressable JPEG no more is decoded than the patches are made from: in training, of crops.

        Validation judges every image as it is, so that each keep rate counts the same ones.
        """
        return self.training and self.crop == "resized" and not self.decoded and not self.whole_files

    @property
    def needs_crops(self) -> bool:
        """Whether all of a crop is needed, and not just what lies under its kept patches."""
        augmented_on_gpu = self.device_id is not None and self.augments and bool(input_names(self.data.augment))
        return self.selection.of_rule.looks_at_images or self.targets or augmented_on_gpu

    @property
    def scores_behind(self) -> bool:
        """Whether patches are scored and chosen behind the graph: on a GPU, and where no kernel knows the rule."""
        rule = self.selection.of_rule
        return rule.looks_at_images and (self.device_id is not None or rule.kernel is None)
