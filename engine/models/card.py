"""The card of an exported model: what it was made for and how it has to be fed, for whoever finds the folder alone."""

from collections.abc import Mapping, Sequence

from engine.models.weights import timm_preprocessing
from pipeline.config import DataConfig

MOST_NAMES = 20
MEASURES = {"top1": "top-1", "reconstruction_loss": "reconstruction loss"}


def model_card(
    timm_name: str,
    data: DataConfig,
    class_names: Sequence[str] | None,
    measure: str,
    measured: Mapping[str, float],
) -> str:
    """The text of ``README.md`` beside an export.

    Args:
        measure: what was measured in validation, one of ``MEASURES``. A model without top-1 has no trained classifier.
        measured: its values by keep rate, as in ``summary.json``.
    """
    says, size = timm_preprocessing(data), data.image_size
    is_share = measure == "top1"
    shorter = int(size / data.val_crop_fraction)
    rows = [f"| {rate} | {f'{value:.2%}' if is_share else f'{value:.4f}'} |" for rate, value in measured.items()]
    lines = [
        "---",
        "library_name: timm",
        f"pipeline_tag: {'image-classification' if is_share else 'image-feature-extraction'}",
        "---",
        "",
        f"# {timm_name}, {size} pixels in patches of {data.patch_size}",
        "",
        "A Vision Transformer in timm's format, trained under a patch sampling schedule.",
        "",
        "## Preprocessing",
        "",
        f"- RGB; a grey image has its value three times. The shorter side is resized to {shorter} pixels "
        f"({says['interpolation']}, antialiased, smaller images enlarged), then the middle {size} x {size} is cut.",
        f"- Values in [0, 1], less the mean {list(data.mean)}, over the standard deviation {list(data.std)}.",
        "- `config.json` says so to timm, whose transform does the same to PIL images; to tensors only with "
        "`antialias=True`. EXIF orientation is ignored on both sides.",
        "- In validation the pixels were rounded once; Pillow rounds after each direction. They differ by a level here "
        "and there, and by a few at an image's edge, whose pixels validation repeats where Pillow leaves them out.",
        "",
        "## Classes",
        "",
        _classes(data.num_classes, class_names) if is_share else "The classifier is untrained: this is an encoder.",
        "",
        "## Validation",
        "",
        f"On images of {size} x {size} pixels in patches of {data.patch_size}, whatever sizes it was trained on:",
        "",
        f"| keep rate | {MEASURES[measure]} |",
        "|---|---|",
        *rows,
        "",
        "The keep rate is the share of the patches that the model looked at. timm's model looks at all of them (1.0).",
        "",
        "## Loading",
        "",
        "With timm:",
        "",
        "```python",
        "import timm",
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))",
        "```",
        "",
    ]
    if is_share:
        lines += [
            "With the project that trained it, at any keep rate:",
            "",
            "```python",
            "from engine.evaluation.inference import Classifier",
            "",
            'classifier = Classifier.load("FOLDER", rule="contrast")',
            'images = classifier.preprocess(["photo.jpg"])  # uint8 [B, S, S, 3], resized and cropped as above',
            "logits = classifier.logits(images, keep_rate=0.5)",
            "```",
            "",
        ]
    return "\n".join(lines)


def _classes(num_classes: int, names: Sequence[str] | None) -> str:
    if names is None:
        return f"{num_classes}, without names."
    if len(names) > MOST_NAMES:
        return f"{num_classes}, from `{names[0]}` to `{names[-1]}`; all of them: `label_names` in `config.json`."
    return f"{num_classes}, in this order: {', '.join(f'`{name}`' for name in names)}."
