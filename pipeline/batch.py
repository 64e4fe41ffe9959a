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
        counted: bool [B], False for rows that only fill up a validation batch. In training, where all rows count, it
            stays in host memory.
        plan: the rows' plan; ``plan.step`` is the step the batch belongs to, however early it was prefetched.
        bad: the rows whose planned samples could not be used; the plan holds their substitutes.
        target_patches: uint8 [B, N-K, P*P*3], the patches that are not kept, where a reconstruction is trained; else
            None.
        ids_target: int32 [B, N-K], their raster indices, ascending; None without target_patches.
        mix_labels: int64 [B], label of the image that each row is mixed with; None where no images are mixed.
        mix_weights: float32 [B], share of the row's own label, 1 where it is not mixed; None with ``mix_labels``.
        weights: float32 [B], the factor of each row's loss, where some examples stand for others; None where all are 1.
        bytes_read, pages_read: taken out of the shards and the files of units beside them for the batch, and the pages
            of 4,096 bytes of a disk that hold them, counted for each image; 0 for images that ``data.echo`` or
            ``data.cache`` hold. What is looked at to find bad samples and their substitutes is not counted.
        num_bytes: that cross to the training device: the tensors that it is given, or where ``data.device: gpu`` makes
            the patches there, the image files and planned arrays that they are made from, and the other tensors.
        ready: recorded behind all that makes the batch on a GPU, where a loader has done that on a stream of its own.
            Until ``to`` has been called the tensors are for nobody to read. None: they can be read at once.
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
    weights: torch.Tensor | None = None
    bytes_read: int = 0
    pages_read: int = 0
    num_bytes: int = 0
    ready: torch.cuda.Event | None = None

    @property
    def num_images(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device, to be read by whatever comes next on the current stream there.

        If it was made for this device already, nothing is copied and the host does not wait. Else the host waits until
        it is copied.
        """
        tensors = {
            field.name: value for field in fields(self) if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        if self.ready is not None:
            here = torch.cuda.current_stream(self.patches.device)
            here.wait_event(self.ready)
            for tensor in tensors.values():
                if tensor.is_cuda:
                    # Its memory is the loader's stream's, which must not use it again before this stream has read it.
                    tensor.record_stream(here)
            if device.type == "cuda" and device.index in (None, self.patches.device.index):
                return replace(self, ready=None)
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, ready=None, **moved)  # type: ignore[arg-type]
