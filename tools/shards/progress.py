"""How commands show what they have done so far, and what is left when they fail."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from tools.command import bar_interval_s


class Progress:
    """A bar on stderr, made only when the total is known, so that its rate does not count what was done before.

    Another total begins another bar.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def on_total(self, total: int, done: int) -> None:
        from tqdm import tqdm

        self._stack.close()
        self._bar: tqdm[NoReturn] = tqdm(total=total, initial=done, unit="img", mininterval=bar_interval_s())
        self._stack.callback(self._bar.close)

    def on_images(self, count: int) -> None:
        self._bar.update(count)

    def on_phase(self, phase: str) -> None:
        self._bar.set_description(phase)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    with ExitStack() as stack:
        yield Progress(stack)


@contextmanager
def going_on(out: Path) -> Iterator[None]:
    """Says, where the disk or a file refuses, that nothing is lost."""
    from tools.shards.journal import JOURNAL_NAME, part_journals

    try:
        yield
    except OSError as error:
        if not (out / JOURNAL_NAME).exists() and not part_journals(out):
            raise
        raise OSError(f"{error}; the finished shards are kept, and the same command goes on from there") from error
