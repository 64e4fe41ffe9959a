"""What leaves the pipeline.

The legend of shapes, used everywhere:

=====  ==========================================================
B      images in a micro batch on one rank
N      patches of the full image
K      patches kept, ``num_kept``
P      side of a patch in pixels
=====  ==========================================================
"""

from dataclasses import dataclass, fields, replace

import torch

from pipeline.graph.bad_samples import BadRow
from pipeline.plan.step import StepPlan


@dataclass(frozen=True)
class Batch:
    """Kept patches of a micro batch, with the plan they were made from.

    Attributes:
        patches: uint8 [B, K, P*P*3], raw pixel values in (row, column, channel) order; normalising is the model's task.
        ids_keep: int32 [B, K], raster index of each kept patch in the full grid, ascending.
        labels: int64 [B].
        counted: bool [B], False for rows that only fill up a validation batch.
        plan: the rows' plan; ``plan.step`` is the step the batch belongs to, however early it was prefetched.
        bad: the rows whose planned samples could not be used; the plan holds their substitutes.
        target_patches: uint8 [B, N-K, P*P*3], the patches that are not kept, where a reconstruction is trained; else
            None.
        ids_target: int32 [B, N-K], their raster indices, ascending; None without target_patches.
        mix_labels: int64 [B], label of the image that each row is mixed with; None where no images are mixed.
        mix_weights: float32 [B], share of the row's own label, 1 where it is not mixed; None with ``mix_labels``.
        bytes_read, pages_read: taken out of the shards and the files of units beside them for the batch, and the pages
            of 4,096 bytes of a disk that hold them, counted for each image; 0 for images that ``data.echo`` or
            ``data.cache`` hold. What is looked at to find bad samples and their substitutes is not counted.
    """

    patches: torch.Tensor
    ids_keep: torch.Tensor
    labels: torch.Tensor
    counted: torch.Tensor
    plan: StepPlan
    bad: tuple[BadRow, ...] = ()
    target_patches: torch.Tensor | None = None
    ids_target: torch.Tensor | None = None
    mix_labels: torch.Tensor | None = None
    mix_weights: torch.Tensor | None = None
    bytes_read: int = 0
    pages_read: int = 0

    @property
    def num_images(self) -> int:
        return len(self.labels)

    @property
    def num_bytes(self) -> int:
        """Bytes that cross to the training device."""
        crossing = (self.patches, self.ids_keep, self.labels, self.target_patches, self.ids_target)
        mixing = (self.mix_labels, self.mix_weights)
        return sum(t.nbytes for t in (*crossing, *mixing) if t is not None)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            if device.type == "cuda" and not tensor.is_cuda:
                # From pageable memory the host would wait for all that the GPU has yet to do.
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=True)

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: moved(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]
