"""The lines of the metrics, sent on to TensorBoard and Weights & Biases where the configuration asks for it.

``metrics.jsonl`` stays the record of the run; these are for looking at it while it goes on. A run that is taken up
again shows each step once: TensorBoard is told from which step on earlier events are void, and Weights & Biases, which
cannot take back what it has got, is not sent that again.
"""

import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.metrics import Monitor
from engine.metrics_table import BEFORE_A_STEP
from engine.progress import say
from engine.ranks.world import World
from pipeline.files import write_atomically

TENSORBOARD_FOLDER = "tensorboard"
WANDB_FOLDER = "wandb"
WANDB_FILE = "wandb_run.json"


def open_monitors(config: RunConfig, folder: Path, first_step: int, world: World) -> list[Monitor]:
    """The monitors that are switched on, of a run that starts or goes on with ``first_step``; on the first rank alone.

    Raises:
        ValueError, OSError: one cannot be opened.
    """
    opened: list[Monitor] = []
    if not world.is_first:
        return opened
    if config.monitor.tensorboard:
        opened.append(_Guarded("TensorBoard", TensorBoardMonitor(folder, first_step)))
    if config.monitor.wandb is not None:
        opened.append(_Guarded("Weights & Biases", WandbMonitor(config, folder)))
    return opened


def scalars(line: dict[str, Any]) -> tuple[int, dict[str, float]]:
    """A line of the metrics as a monitor takes it: the number of steps trained by then, and values by name.

    Names begin with the event; those of a validation end with its keep rate, such as ``eval/top1_keep_0.4``, and say
    which of several sets it was on, such as ``eval/sketches/top1_keep_0.4``.
    """
    event = line["event"]
    # A train line is about step ``step``, counted from 0; the others are about the weights after ``step`` steps.
    step = line["step"] + 1 if event in BEFORE_A_STEP else line["step"]
    suffix = f"_keep_{line['keep_rate']:g}" if event == "eval" else ""
    event = f"{event}/{line['val']}" if line.get("val") else event
    left_out = {"step", "event"} | ({"keep_rate"} if event.startswith("eval") else set())
    line = {**line, **{f"rows_of_{name}": rows for name, rows in (line.get("source_rows") or {}).items()}}
    values = {
        f"{event}/{name}{suffix}": float(value)
        for name, value in line.items()
        if name not in left_out and isinstance(value, int | float)
    }
    return step, values


class TensorBoardMonitor:
    """Event files in the run folder's ``tensorboard``."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Readers drop what earlier files say of steps from here on; nothing is to be dropped for a fresh run.
        void_from = first_step + 1 if first_step else None
        self._writer = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=void_from)

    def write(self, line: dict[str, Any]) -> None:
        step, values = scalars(line)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbMonitor:
    """A Weights & Biases run, whose id and newest steps are kept in the run folder's ``wandb_run.json``.

    Raises:
        ValueError: Weights & Biases refuses, such as for want of a key; ``WANDB_MODE=offline`` needs none.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        import wandb

        assert config.monitor.wandb is not None
        self._path = folder / WANDB_FILE
        self._state: dict[str, Any] = {"id": None, "newest": {}}
        if self._path.exists():
            self._state = json.loads(self._path.read_text())
        had_id = self._state["id"] is not None
        try:
            self._run = wandb.init(
                project=config.monitor.wandb.project,
                entity=config.monitor.wandb.entity,
                name=config.name,
                id=self._state["id"] or secrets.token_hex(4),
                resume="allow" if had_id else "never",
                dir=str(folder),
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:  # whatever its many layers raise, it is about an account or a connection
            reason = " ".join(str(error).split())
            raise ValueError(
                f"monitor.wandb cannot be opened: {reason}; set WANDB_API_KEY, or WANDB_MODE=offline, which needs none"
            ) from None
        self._state["id"] = self._run.id
        self._keep_state()
        # Steps are a value like others: Weights & Biases' own count knows no way back to an earlier step.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._sent_before = dict(self._state["newest"])

    def write(self, line: dict[str, Any]) -> None:
        step, values = scalars(line)
        event = line["event"]
        if step <= self._sent_before.get(event, -1):
            return
        self._run.log({"step": step, **values})
        self._state["newest"][event] = step
        self._keep_state()

    def flush(self) -> None:
        """It sends in a process of its own."""

    def close(self) -> None:
        self._run.finish()

    def _keep_state(self) -> None:
        write_atomically(self._path, json.dumps(self._state) + "\n", sync=False)


class _Guarded:
    """A monitor that is given up, with a line that says so, rather than end the run."""

    def __init__(self, name: str, monitor: Monitor) -> None:
        self._name = name
        self._monitor: Monitor | None = monitor

    def write(self, line: dict[str, Any]) -> None:
        self._try(lambda monitor: monitor.write(line))

    def flush(self) -> None:
        self._try(lambda monitor: monitor.flush())

    def close(self) -> None:
        self._try(lambda monitor: monitor.close())

    def _try(self, work: Callable[[Monitor], None]) -> None:
        if self._monitor is None:
            return
        try:
            work(self._monitor)
        except Exception as error:  # other people's code, at work beside a run that may have taken days
            self._monitor = None
            reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
            say(f"{self._name} gets no more metrics ({reason}); metrics.jsonl goes on")
