"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from engine.evaluation.evaluate import Accuracy, Evaluation, by_set
from engine.ranks.world import World

_SECONDS_BETWEEN_LINES = 5.0


def say(text: str) -> None:
    """Print a line. That nobody listens any more is no reason to lose a run."""
    with suppress(OSError):
        print(text, flush=True)


class Progress:
    """Every rank has one; that of the first rank speaks, the others' are silent.

    Args:
        with_sizes: the sizes of images or patches follow a schedule, so lines say them.
    """

    def __init__(self, first_step: int, stop_step: int, world: World, *, with_sizes: bool = False) -> None:
        self._with_sizes = with_sizes
        self._speaks, self._stop = world.is_first, stop_step
        self._bar = None
        self._first, self._started_at, self._shown_at = first_step, time.monotonic(), 0.0
        if self._speaks and sys.stderr.isatty():
            self._bar = tqdm(total=stop_step, initial=first_step, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def show(self, line: dict[str, Any]) -> None:
        """The figures of a train line of the metrics."""
        if not self._speaks:
            return
        sizes = f" of {line['image_size']} / {line['patch_size']} pixels" if self._with_sizes else ""
        text = (
            f"keep {line['keep_rate']:.3g} ({line['num_kept']} patches{sizes})  loss {line['loss']:.3f}  "
            f"lr {line['lr']:.2e}  {line['images_per_s']:.0f} images/s  "
            f"loader wait {line['loader_wait_s'] / line['step_s']:.0%}  "
            f"idle {line['device_idle_s'] / line['step_s']:.0%}"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
        elif time.monotonic() - self._shown_at >= _SECONDS_BETWEEN_LINES or line["step"] + 1 == self._stop:
            self._shown_at = time.monotonic()
            self.say(
                f"step {line['step'] + 1}/{self._stop}{self._left(line['step'] + 1)}  epoch {line['epoch']}  {text}"
            )

    def _left(self, done: int) -> str:
        """The time to the last step if all goes on as it did since this start, validations and all."""
        if done == self._stop:
            return ""
        per_step_s = (time.monotonic() - self._started_at) / (done - self._first)
        return f" ({tqdm.format_interval(per_step_s * (self._stop - done))} left)"

    def say_evaluations(self, step: int, evaluations: list[Evaluation]) -> None:
        measure = "top-1" if isinstance(evaluations[0], Accuracy) else "reconstruction loss"
        for name, of_set in by_set(evaluations).items():
            where = "" if name is None else f" on {name}"
            parts = "  ".join(f"{one.keep_rate:g}: {one}" for one in of_set)
            self.say(f"validation{where} after step {step}, {measure} by keep rate  {parts}")

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text)
        elif self._speaks:
            say(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
