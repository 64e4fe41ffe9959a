"""State on its way to the disk: copied while training waits, written later; and states beside DeepSpeed's read back."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from deepspeed.checkpoint.utils import clone_tensors_for_torch_save
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from engine.checkpoints.manifest import FileFacts


class CopyingEngine(TorchCheckpointEngine):
    """Stands between DeepSpeed and the disk: what DeepSpeed saves is copied to host memory and kept for the thread."""

    def __init__(self) -> None:
        super().__init__()
        self._taken: list[tuple[Path, Any]] = []

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        pass

    def save(self, state_dict: Any, path: str) -> None:
        # Of a view its elements alone are copied; torch.save would write the whole flat buffer behind it.
        self._taken.append((Path(path), clone_tensors_for_torch_save(state_dict)))

    def take(self) -> list[tuple[Path, Any]]:
        taken, self._taken = self._taken, []
        return taken


class _HashedFile:
    """A file that knows what was written to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sha256 = hashlib.sha256()
        self._num_bytes = 0
        self.problem: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.problem = error  # torch goes on to finish its archive, and fails at that in its own words
            raise
        self._sha256.update(data)
        self._num_bytes += written
        return written

    def flush(self) -> None:
        self._file.flush()

    def close_durably(self) -> FileFacts:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileFacts(self._num_bytes, self._sha256.hexdigest())


def write_state(path: Path, state: Any) -> FileFacts:
    """``torch.save`` to a new file, forced to the disk.

    Raises:
        OSError: it could not be written; the message names the file and the cause.
    """
    file = None
    try:
        file = _HashedFile(path)
        torch.save(state, file)  # type: ignore[arg-type]
        return file.close_durably()
    except (OSError, RuntimeError) as error:
        cause = file.problem if file is not None and file.problem is not None else error
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        raise OSError(f"{path}: {reason}") from error


def read_state(path: Path) -> Any:
    """A state that ``write_state`` wrote, tensors on the CPU. Plain containers of tensors and numbers; runs no code.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # zip and pickle readers each raise their own kinds
        raise OSError(f"{path} cannot be read: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """An error in one line, with its file where it has one."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
