"""The trainer's side of a rule that looks through the model: its embedding, taken at planned steps."""

from pathlib import Path
from typing import Any

import deepspeed
import torch

from engine.checkpoints.state_files import read_state
from engine.config import RunConfig
from engine.models.patch_embed import PatchModel
from pipeline.plan.schedule import PatchSchedule
from pipeline.selection.magnitude import EmbeddingSnapshot
from pipeline.selection.snapshots import SnapshotBoard, SnapshotMoments

SNAPSHOT_FILE = "embedding_snapshot.pt"  # in a checkpoint
_ARRAYS = ("kernel", "offsets", "mean_patch")


def take_snapshot(
    model: PatchModel, step: int, *, image_size: int | None = None, patch_size: int | None = None
) -> EmbeddingSnapshot:
    """The model's embedding as it is now, as float32 on the CPU. Collective under ZeRO-3.

    Args:
        image_size, patch_size: what it embeds, as for ``PatchModel.forward``.
    """
    gathered = [*model.patch_embed.parameters(), *([model.pos_embed] if model.pos_embed is not None else [])]
    with deepspeed.zero.GatheredParameters(gathered), torch.no_grad():
        kernel, bias, positions = (
            None if part is None else part.detach().float().cpu().numpy().copy()
            for part in model.patch_embedding(image_size=image_size, patch_size=patch_size)
        )
    assert kernel is not None
    assert bias is not None
    return EmbeddingSnapshot.of(step, kernel, bias, positions, mean=model.mean, std=model.std)


def open_board(config: RunConfig, schedule: PatchSchedule) -> SnapshotBoard | None:
    """Where the training loader will look for snapshots; None where the rule needs none."""
    if not config.selection.needs_model:
        return None
    return SnapshotBoard(SnapshotMoments(config.selection.snapshot_at, schedule).of)


def publish_if_due(board: SnapshotBoard | None, model: PatchModel, step: int) -> None:
    """Before training ``step``: hand the loader the embedding, if the step is a planned moment. Collective."""
    if board is not None and board.moment_of(step) == step:
        board.publish(take_snapshot(model, step))


def snapshot_state(board: SnapshotBoard | None) -> dict[str, Any] | None:
    """The snapshot in force, for a checkpoint: a run that goes on between two moments needs it."""
    if board is None or board.newest is None:
        return None
    newest = board.newest
    return {
        "step": torch.tensor(newest.step),
        **{name: torch.from_numpy(getattr(newest, name)) for name in _ARRAYS},
    }


def restore_snapshot(board: SnapshotBoard | None, checkpoint: Path, step: int) -> None:
    """Put the snapshot of a checkpoint back for a run that goes on at ``step``.

    Raises:
        ValueError: the step needs a snapshot that is not in the checkpoint.
        OSError: it cannot be read.
    """
    if board is None:
        return
    moment = board.moment_of(step)
    if moment == step:
        return  # taken from the weights, as it would have been without the interruption
    path = checkpoint / SNAPSHOT_FILE
    state = read_state(path) if path.exists() else None
    if state is None or int(state["step"]) != moment:
        found = "none" if state is None else f"that of step {int(state['step'])}"
        raise ValueError(
            f"to go on at step {step}, selection.rule magnitude needs the embedding as it was at step {moment}, and "
            f"{checkpoint} holds {found}; go on from a checkpoint of a step at which a snapshot is taken, or give "
            "--resume never"
        )
    board.publish(EmbeddingSnapshot(moment, *(state[name].numpy() for name in _ARRAYS)))
