"""The launcher's processes above this rank, which no rank outlives.

``deepspeed`` starts one ``deepspeed.launcher.launch`` a machine, which starts the ranks. SIGKILL ends either without a
word to the ranks, and so does SIGTERM to ``deepspeed`` on a single machine, which hands no signal on.
"""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import PurePath

from engine.ranks.processes import Process, ancestors, command_line, find_process, was_left_behind

_LAUNCH = "deepspeed.launcher.launch"
_RUNNER_NAMES = ("deepspeed", "deepspeed.pt", "ds")
_SECONDS_BETWEEN_LOOKS = 1.0
_LAST_SECONDS = 30.0


def is_launch(command: Sequence[str]) -> bool:
    """Whether this command line is ``deepspeed.launcher.launch``, the parent of the ranks on one machine."""
    return _LAUNCH in command[1:5]


def is_runner(command: Sequence[str]) -> bool:
    """Whether this command line is ``deepspeed``, however it was called."""
    if "deepspeed.launcher.runner" in command[1:5]:
        return True
    return any(PurePath(word).name in _RUNNER_NAMES for word in command[:2])


def num_followed(ancestors: Sequence[Sequence[str]]) -> int:
    """How many of a rank's ancestors are the launcher's, counted from its parent upwards.

    A shell or a terminal above the launcher may go (nohup, a lost login): the run is meant to outlive these. Under pdsh
    the chain is rank, launch, shell, sshd; that sshd ends when the connection to pdsh does, so it belongs to the
    launcher.

    Args:
        ancestors: their command lines, parent first.
    """
    launch = next((i for i, command in enumerate(ancestors) if is_launch(command)), None)
    if launch is None:
        return 0
    count = launch + 1
    if count < len(ancestors) and is_runner(ancestors[count]):
        return count + 1
    remote = count
    if remote < len(ancestors) and any(_LAUNCH in word for word in ancestors[remote]):
        remote += 1  # the shell that sshd was asked to run the launcher in
    if remote < len(ancestors) and ancestors[remote] and ancestors[remote][0].startswith(("sshd", "/usr/sbin/sshd")):
        return remote + 1
    return count


def lost_its_launcher(this: Process, above: Sequence[Process], commands: Sequence[Sequence[str]]) -> bool:
    """Whether a rank's launcher went while the rank was starting.

    Args:
        above, commands: the rank's ancestors, parent first, and their command lines.
    """
    if not {"LOCAL_SIZE", "CROSS_RANK"} <= os.environ.keys():  # deepspeed.launcher.launch sets them
        return False
    launch = next((i for i, command in enumerate(commands) if is_launch(command)), 0)
    chain = [this, *above[: launch + 1]]
    return any(was_left_behind(child, parent) for child, parent in zip(chain, [*above, None], strict=False))


class Launchers:
    """Looks at this rank's launchers once a second, from the moment it is made, on a thread of its own.

    Without a DeepSpeed launcher above the rank there is nothing to look at.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: str | None = None
        self._act: Callable[[str], None] = _end_now
        above = ancestors()
        commands = [command_line(process.pid) for process in above]
        self._followed = above[: num_followed(commands)]
        this = find_process(os.getpid())
        if this is not None and lost_its_launcher(this, above, commands):
            _end_now("the launcher")
        if self._followed:
            threading.Thread(target=self._look, name="launchers", daemon=True).start()

    @property
    def followed(self) -> list[Process]:
        """The launcher's processes above this rank, its parent first."""
        return self._followed

    def when_lost(self, act: Callable[[str], None] | None) -> None:
        """From now on call ``act`` with a launcher's name when it is found gone.

        None: the run is over, and the process gets some seconds to end by itself. At first it is ended at once.
        """
        with self._lock:
            self._act = act or _end_soon
            if self._lost is not None:
                self._act(self._lost)

    def _look(self) -> None:
        while True:
            gone = [process for process in self._followed if not process.is_alive]
            if gone:
                with self._lock:
                    self._lost = f"the launcher (process {gone[0].pid})"
                    self._act(self._lost)
                return
            threading.Event().wait(_SECONDS_BETWEEN_LOOKS)


def _end_soon(launcher: str) -> None:
    timer = threading.Timer(_LAST_SECONDS, _end_now, [launcher])
    timer.daemon = True
    timer.start()


def _end_now(launcher: str) -> None:
    """Before training there is nothing to save."""
    try:
        print(f"error: {launcher} is gone; this rank ends too", file=sys.stderr, flush=True)
    finally:
        os._exit(1)
