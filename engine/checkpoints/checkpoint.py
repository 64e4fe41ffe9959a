"""Checkpoints: what a run needs to go on as if it had not stopped, written behind the training loop's back.

The input side needs one number, the step, so a checkpoint is DeepSpeed's state (weights, optimizer), a file for each
other state that the run has, and a manifest. On each rank the state is copied to host memory while training waits; a
thread then writes, syncs and hashes the files, and when every rank has done so the first one writes the manifest. A
save that fails anywhere leaves a folder without a manifest, which is never taken up, and the checkpoints before it as
they were.

The run folder must be on storage that all ranks share.
"""

import hashlib
import logging
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.utils import safe_get_full_fp32_param

from engine.checkpoints.elastic import remove_universal_checkpoints
from engine.checkpoints.manifest import (
    FileFacts,
    delete_checkpoint,
    has_manifest,
    step_folder,
    steps_in,
    superseded,
    write_json,
    write_manifest,
)
from engine.checkpoints.state_files import CopyingEngine, describe, write_state
from engine.metrics import MetricsFile
from engine.ranks.world import World, agree, close_group, end_together, open_group

POINTER = "latest.json"  # for people and scripts; resuming looks at the manifests
SAVE_FAILED_EXIT_CODE = 74  # EX_IOERR
_GRACE_S = 30.0  # for a save under way when the run ends by an error

T = TypeVar("T")


class SaveFailedError(RuntimeError):
    """A checkpoint could not be written; the message is for people. Raised on every rank at the same step."""

    agreed = True


class Checkpoints:
    """Saves of one run. Every method is collective, and to be called on every rank at the same step.

    Args:
        folder: the run's folder of checkpoints, made at the first save.
        facts: what the manifests say beside step, number of ranks and files.
        metrics: get a line for each checkpoint, and are on the disk before it counts.
        keep_last, keep_every: see ``engine.checkpoints.manifest.superseded``.
    """

    def __init__(
        self,
        engine: DeepSpeedEngine,
        folder: Path,
        world: World,
        *,
        facts: dict[str, Any],
        metrics: MetricsFile,
        keep_last: int,
        keep_every: int | None = None,
    ) -> None:
        self._engine, self._folder, self._world, self._facts = engine, folder, world, facts
        self._metrics, self._keep_last, self._keep_every = metrics, keep_last, keep_every
        self._copies = CopyingEngine()
        engine.checkpoint_engine = self._copies
        # Nothing that runs in a run's place belongs beside its checkpoints.
        engine._copy_recovery_script = lambda _: None
        # The thread's own: collectives of two threads in one group would mix.
        self._group: Any = open_group(world)
        self._thread: threading.Thread | None = None
        self._outcome: dict[str, Any] | Exception | None = None

    def save(self, step: int, extras: Mapping[str, Any] | None = None) -> None:
        """Take the state after ``step`` steps and begin to write it.

        Args:
            extras: further states by file name, containers of tensors and plain values, the same on all ranks: the
                first one writes them. ``engine.checkpoints.state_files.read_state`` reads them from ``Start.source``.

        Raises:
            SaveFailedError: the save before this one failed.
        """
        start = time.perf_counter()
        self.finish()
        self._engine.save_checkpoint(str(self._folder), tag=step_folder(self._folder, step).name, save_latest=False)
        if self._world.is_first:
            for name, state in (extras or {}).items():
                self._copies.save(state, str(step_folder(self._folder, step) / name))
        files = self._copies.take()
        stall_s = time.perf_counter() - start
        self._outcome = None
        self._thread = threading.Thread(
            target=self._write, args=(step, files, start, stall_s), name="checkpoint", daemon=True
        )
        self._thread.start()

    def poll(self) -> None:
        """Take note of a save that has come to its end, if one was under way.

        Raises:
            SaveFailedError: it failed.
        """
        if self._thread is not None and agree(self._world, not self._thread.is_alive()):
            self.finish()

    def finish(self) -> None:
        """Wait for the save under way, if any.

        Raises:
            SaveFailedError: it failed.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        if self._outcome is not None:
            self._metrics.write(self._outcome)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self.finish()
            finally:
                close_group(self._group)
            return
        if self._thread is not None:
            # Whatever ended the run came after this save: let it count, if the other ranks are there to agree.
            self._thread.join(_GRACE_S)
        if getattr(error, "agreed", False):  # else other ranks may never come here
            close_group(self._group)

    def _write(self, step: int, files: list[tuple[Path, Any]], start: float, stall_s: float) -> None:
        """The thread's work."""
        folder = step_folder(self._folder, step)
        try:
            self._together(lambda: self._make_room(folder))
            written = self._together(lambda: {path.name: write_state(path, state) for path, state in files})
            facts = {name: fact for part in written for name, fact in part.items()}
            self._together(lambda: self._declare(step, facts))
            self._outcome = {
                "event": "checkpoint",
                "step": step,
                "stall_s": stall_s,
                "total_s": time.perf_counter() - start,
                "num_bytes": sum(fact.num_bytes for fact in facts.values()),
            }
        except Exception as error:
            if self._world.is_first and not has_manifest(folder):
                shutil.rmtree(folder, ignore_errors=True)  # it would only take room
            self._outcome = SaveFailedError(
                f"the checkpoint of step {step} could not be written: {error}. Earlier checkpoints are as they were; "
                "mend the cause (make room, or raise the limit), and the same command goes on from the last of them"
            )

    def _make_room(self, folder: Path) -> None:
        """An empty folder where an interrupted save, or an earlier course of the run, may have left another."""
        if self._world.is_first:
            if folder.exists():
                delete_checkpoint(folder)
            folder.mkdir(parents=True)

    def _declare(self, step: int, files: dict[str, FileFacts]) -> None:
        if not self._world.is_first:
            return
        self._metrics.sync()
        folder = step_folder(self._folder, step)
        write_manifest(folder, {"step": step, "world_size": self._world.size, **self._facts}, files)
        write_json(self._folder / POINTER, {"tag": folder.name})
        remove_superseded(self._folder, step, keep_last=self._keep_last, keep_every=self._keep_every)

    def _together(self, work: Callable[[], T]) -> list[T]:
        """Do ``work`` on every rank and give each one the results of all; if it fails on one, raise on all."""
        result, problem = None, None
        try:
            result = work()
        except Exception as error:
            where = f"rank {self._world.rank} ({socket.gethostname()}): " if self._world.size > 1 else ""
            problem = f"{where}{describe(error)}"
        everyone: list[Any] = [None] * self._world.size
        dist.all_gather_object(everyone, (result, problem), group=self._group)
        problems = [problem for _, problem in everyone if problem is not None]
        if problems:
            raise SaveFailedError(problems[0])
        return [result for result, _ in everyone]


def remove_superseded(folder: Path, newest: int, *, keep_last: int, keep_every: int | None) -> None:
    """Delete what the checkpoint at step ``newest``, just completed, makes superfluous.

    That is the older checkpoints that are not to be kept, what interrupted saves left, and conversions.
    """
    older = [step for step in steps_in(folder) if step < newest]
    complete = [step for step in older if has_manifest(step_folder(folder, step))]
    superfluous = superseded([*complete, newest], keep_last=keep_last, keep_every=keep_every)
    try:
        for step in sorted((set(older) - set(complete)) | set(superfluous)):
            delete_checkpoint(step_folder(folder, step))
        remove_universal_checkpoints(folder)
    except OSError as error:  # no reason to end a run: the next save tries again
        print(f"warning: an old checkpoint could not be deleted: {describe(error)}", file=sys.stderr, flush=True)


@contextmanager
def clear_save_error(world: World) -> Iterator[None]:
    """End the run with one line and ``SAVE_FAILED_EXIT_CODE`` on every rank if a checkpoint cannot be written."""
    try:
        yield
    except SaveFailedError as error:
        end_together(world, str(error), SAVE_FAILED_EXIT_CODE)


def load_checkpoint(engine: DeepSpeedEngine, checkpoint: Path) -> None:
    """Load weights and optimizer, from a checkpoint of this number of ranks or a universal one. Collective.

    DeepSpeed unpickles the files: they have to be held against their manifest before.
    """
    # DeepSpeed brings the checkpoint's hyperparameters along, and from the universal form of ZeRO-3 gives all groups
    # those of the first. They are the configuration's business, which was compared with the checkpoint's.
    settings = [{key: value for key, value in group.items() if key != "params"} for group in _groups(engine)]
    clip_grad = getattr(engine.optimizer, "clip_grad", None)
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of the missing Megatron on every rank
    try:
        loaded, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    finally:
        logger.setLevel(level)
    if loaded is None:
        raise FileNotFoundError(f"the checkpoint {checkpoint} is not complete: DeepSpeed found no state in it")
    for group, values in zip(_groups(engine), settings, strict=True):
        group.update(values)
    if clip_grad is not None:
        engine.optimizer.clip_grad = clip_grad
    # From the universal form of ZeRO-3 all groups share one counter of steps, and each would advance it.
    for state in engine.basic_optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()


def _groups(engine: DeepSpeedEngine) -> list[dict[str, Any]]:
    return engine.optimizer.param_groups


def full_weights(engine: DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """Every parameter whole, float32 on the CPU, by name. Collective; each rank gets all of them."""
    weights = {}
    for name, parameter in engine.module.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        weights[name] = (parameter.detach() if whole is None else whole).float().cpu().clone()
    return weights


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over all parameters in name order: names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}{list(weights[name].shape)}".encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
