"""How sharply is each weight of a finished run determined by its data? The diagonal of the Fisher information.

    python -m tools.fisher runs/old --out old.fisher.safetensors

A later run that starts from this one can hold each weight as firmly as this says: train.anchor.fisher. It is the mean,
over training images with all their patches, of the squared gradient of the log-likelihood of a class that is drawn from
the model's own distribution. Computed on the CPU, image by image. The file holds a tensor for each parameter.

Exit codes: 0 done, 2 an input that cannot be used (one line on stderr says which), 130 interrupted by Ctrl-C.
"""

import argparse
from collections.abc import Sequence

from engine.command_line import Parser, importing, leave
from pipeline.files import user_path
from tools.command import answer, bar_interval_s

with importing():
    from engine.run.finished import check_classifier, finished_config


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.fisher", __doc__)
    parser.add_argument("run", type=user_path, help="the folder of a finished run")
    parser.add_argument("--out", type=user_path, required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument("--samples", type=int, default=2000, help="training images (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override one key of the run")
    options = parser.parse_args(arguments)
    if options.samples < 1:
        raise ValueError(f"--samples is at least 1, got {options.samples}")
    if options.out.suffix != ".safetensors" or not options.out.absolute().parent.is_dir():
        raise ValueError(f"--out is a .safetensors file in a folder that is there, got {options.out}")
    return options


def _shown(options: argparse.Namespace) -> str:
    config = finished_config(options.run, options.set)
    check_classifier(options.run, config)
    if config.train.loss != "cross_entropy":
        raise ValueError(
            f"{options.run} was trained with train.loss {config.train.loss}; the Fisher information here is of a model "
            "whose outputs are a distribution over classes, as cross_entropy makes them"
        )
    with importing():
        import torch
        from tqdm import tqdm

        from engine.checkpoints.checkpoint import weights_digest
        from engine.evaluation.inference import load_classifier_run
        from engine.run.fisher import Fisher, write_fisher
        from tools.fisher.estimate import fisher_diagonal, training_batches

    model = load_classifier_run(options.run, options.set).model
    batches = tqdm(
        training_batches(config, options.samples), desc="gradients", unit="batch", mininterval=bar_interval_s()
    )
    diagonal, num_images = fisher_diagonal(model, batches, config.seed)
    digest = weights_digest({name: parameter.detach() for name, parameter in model.named_parameters()})
    facts = {"run": config.name, "images": str(num_images), "labels": "drawn from the model's own distribution"}
    write_fisher(options.out, Fisher(diagonal, digest), facts)
    values = torch.cat([value.flatten() for value in diagonal.values()]).double()
    return (
        f"{options.out}: the Fisher information of {len(values):,} weights over {num_images:,} images, from "
        f"{values.min():.2e} to {values.max():.2e}, mean {values.mean():.2e}\n"
        f"train.anchor.strength over {values.mean():.2e} holds them as firmly on average as the strength without a file"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the diagonal and write the file."""
    return answer(lambda: _parse(arguments), _shown)


if __name__ == "__main__":
    leave(main())
