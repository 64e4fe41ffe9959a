"""What is in these images? Class names and probabilities, by a trained model that looks at a share of the patches.

    python -m tools.predict runs/fashion_mnist photo.jpg other.png
    python -m tools.predict runs/fashion_mnist photos --keep-rate 0.5 --json > answers.jsonl
    python -m tools.predict runs/fashion_mnist data/fashion-mnist --split val --csv

RUN is a finished run's folder or an exported model's. Images are files, folders of files, or one folder of shards. They
are prepared as validation prepares them. Standard output holds the answers alone, a line an image.

Exit codes: 0 every image has an answer, 2 an input that cannot be used, 3 images that cannot be read (each is named on
stderr; the others have their answers), 130 interrupted by Ctrl-C.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.command_line import Parser, importing, interruptible, leave, stdout_apart
from pipeline.files import user_path
from tools.command import bar_interval_s, lines_out, told

with importing():
    from pipeline.selection.config import SelectionConfig, rule_forms, rule_from_text

if TYPE_CHECKING:
    from engine.evaluation.inference import Classifier
    from tools.predict.images import Asked, Files, Shards
    from tools.predict.output import Layout

UNREADABLE_EXIT_CODE = 3
_BATCH_SIZE = 64


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.predict", __doc__, epilog="\n\n".join((__doc__ or "").split("\n\n")[2:]))
    parser.add_argument("run", type=user_path, metavar="RUN", help="folder of a finished run, or of an exported model")
    text = "image files, folders of them, or one folder of shards"
    parser.add_argument("images", type=user_path, nargs="+", metavar="IMAGES", help=text)
    parser.add_argument("--split", help="of shards: train, val or whichever they have (default: val)")
    parser.add_argument("--keep-rate", type=float, default=1.0, metavar="RATE", help="of the patches (default: 1)")
    parser.add_argument("--rule", help=f"{rule_forms()} (default: the run's own; an export has none)")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="classes for each image (default: 1)")
    forms = parser.add_mutually_exclusive_group()
    for form, text in (("csv", "comma-separated, with a head"), ("json", "an object a line")):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, default="table", help=text)
    options = parser.parse_args(arguments)
    if options.top < 1:
        raise ValueError(f"--top is at least 1, got {options.top}")
    if options.rule is not None:
        rule_from_text(options.rule)
    # On a terminal the answers themselves show how far it is.
    options.no_bar = sys.stdout is not None and sys.stdout.isatty()
    return options


def _opened(options: argparse.Namespace) -> "tuple[Classifier, Files | Shards, Asked]":
    """The model, the images and how to look at them. Raises ValueError or OSError for what cannot be used."""
    with importing():
        from engine.evaluation.inference import Classifier
        from engine.ranks.devices import find_device
        from pipeline.plan.schedule import num_kept_at
        from tools.predict.images import Asked, Files, check_rule, open_images

    classifier = Classifier.load(options.run, options.rule)
    images = open_images(options.images, options.split, classifier.class_names)
    device = find_device()
    classifier.model.to(device)
    num_patches = classifier.num_patches
    rule = classifier.selection
    if num_kept_at(options.keep_rate, num_patches) == num_patches and (rule is None or rule.needs_map):
        rule = SelectionConfig(rule="random")  # there is nothing to choose
    if rule is None:
        raise ValueError(f"an exported model has no rule of its own: name one with --rule, {rule_forms()}")
    check_rule(rule, images)
    if isinstance(images, Files) and images.others:
        say(f"{len(images.others)} file(s) are no images by their names, such as {images.others[0]}: not looked at")
    if classifier.data is not None and classifier.data.device == "gpu" and device.type == "cpu":
        say("data.device is gpu, but no GPU is visible here: images are decoded and resized on the CPU")
    return classifier, images, Asked(options.keep_rate, rule, _BATCH_SIZE)


def _layout(classifier: "Classifier", images: "Files | Shards", top: int) -> "Layout":
    from tools.predict.images import Shards
    from tools.predict.output import Layout

    names = classifier.class_names or [str(label) for label in range(classifier.model.num_classes)]
    return Layout(names, min(top, len(names)), (images.names or names) if isinstance(images, Shards) else None)


def _answer(
    classifier: "Classifier",
    images: "Files | Shards",
    asked: "Asked",
    options: argparse.Namespace,
    put: Callable[[str], None],
) -> int:
    """Put the answers out, line by line. Returns the exit code.

    Raises:
        BadSampleError, StaleIndexError, UnreadableUnitsError, OSError: the images cannot be read on.
    """
    from tqdm import tqdm

    from tools.predict.images import Unreadable
    from tools.predict.output import FORMS

    layout = _layout(classifier, images, options.top)
    head, line = FORMS[options.form](layout)
    tally = Tally()
    no_bar = options.no_bar or images.num_images <= _BATCH_SIZE
    with tqdm(total=images.num_images, unit="image", mininterval=bar_interval_s(), disable=no_bar) as bar:
        if head is not None:
            put(head)
        for one in images.answers(classifier, asked, layout.top):
            bar.update()
            if isinstance(one, Unreadable):
                tally.num_unreadable += 1
                bar.write(f"{one.key}: {one.reason}", file=sys.stderr)
                continue
            tally.num_answers += 1
            tally.num_right += one.label == layout.names[one.best[0][0]]
            put(line(one))
    for text in tally.lines(layout):
        say(text)
    return UNREADABLE_EXIT_CODE if tally.num_unreadable else 0


@dataclass
class Tally:
    """What came of the images so far."""

    num_answers: int = 0
    num_right: int = 0
    num_unreadable: int = 0
    started: float = field(default_factory=time.perf_counter)

    def lines(self, layout: "Layout") -> Iterator[str]:
        """For people."""
        taken_s = time.perf_counter() - self.started
        yield f"{self.num_answers:,} image(s) in {taken_s:.1f} s, {self.num_answers / taken_s:,.0f} images/s"
        if self.num_unreadable:
            yield f"{self.num_unreadable:,} image(s) could not be read; they are named above"
        if layout.labels is None or not self.num_answers:
            return
        if set(layout.labels) & set(layout.names):
            share = self.num_right / self.num_answers
            yield f"{self.num_right:,} of {self.num_answers:,} are what their label says ({share:.2%})"
        else:
            yield "the labels name other classes than the model's, so that nothing is said about its accuracy"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _predict(arguments: Sequence[str] | None) -> int:
    try:
        options = _parse(arguments)
        with stdout_apart():
            classifier, images, asked = _opened(options)
    except (ValueError, OSError) as error:
        return told(error)
    from pipeline.graph.bad_samples import BadSampleError
    from pipeline.shards.index import StaleIndexError
    from pipeline.shards.units import UnreadableUnitsError

    try:
        with lines_out() as put:
            return _answer(classifier, images, asked, options, put)
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        return 0
    except (BadSampleError, StaleIndexError, UnreadableUnitsError, OSError) as error:
        told(error)
        return UNREADABLE_EXIT_CODE


def main(arguments: Sequence[str] | None = None) -> int:
    """Put out an answer for each image."""
    with interruptible():
        return _predict(arguments)


if __name__ == "__main__":
    leave(main())
