"""Settings of toy runs with all switched on at once that training decides by, for tests and benchmarks of resuming.

One run cannot have it all: some of it is refused together, such as an echo where epochs leave examples out.
"""

from pathlib import Path

from tools.shards.levels.resize import resize_levels

_BEIT = {
    "model.name": "beit_base_patch16_224",  # relative position bias, and absolute positions for the rule to see
    "model.options": "{embed_dim: 32, depth: 2, num_heads: 2, use_abs_pos_emb: true}",
    "model.head_init_std": "0.01",
}
_TRAINING = {
    "train.loss": "binary_cross_entropy",
    "train.label_smoothing": "0.1",
    "train.ema_decay": "0.9",
    "optim.layer_decay": "0.8",
    "engine.zero_stage": "1",
}
EVERYTHING = {
    **_BEIT,
    "model.drop_path": "0.2",
    "data.augment": "{crop: pad, pad_pixels: 1, auto: {kind: randaugment, num_ops: 1, "
    "magnitude: {kind: linear, values: [0, 9]}}, mixup: {kind: linear, values: [0, 0.8]}, cutmix: 1, "
    "erase_probability: 0.3, repeats: 2}",
    "selection": "{rule: magnitude, temperature: 0.5, estimate: sketch, estimate_size: 8, snapshot_at: stage}",
    "schedule.kind": "cyclic",
    **_TRAINING,
}

LEVEL = 12
ALL_AXES_STEPS, CHANGE_OF_SIZE = 30, 15
# Three epochs of 6 steps, which see half of the examples, and one of 12, the second half of it the cooldown. The image
# grows after steps 9 and 14, in the midst of epochs 1 and 2, and any step may have other patches than the one before.
ALL_AXES = {
    **_BEIT,
    "data.levels": f"[{LEVEL}]",
    "data.augment": "{scale: [0.4, 1], auto: {kind: randaugment, num_ops: 1, "
    "magnitude: {kind: linear, values: [0, 9]}}, mixup: {kind: linear, values: [0, 0.8]}, cutmix: 1, "
    "erase_probability: 0.3}",
    "selection": "{rule: contrast, temperature: 0.5}",
    "schedule": "{kind: linear, keep_rate: [0.6, 1.0], cooldown: 0.5epochs, examples: {rule: loss, keep: 0.5}, "
    "image_size: {kind: steps, values: [[0, 8], [0.4, 12], [0.625, 16]]}, "
    "patch_size: {kind: choice, values: [[4, 1], [2, 1]]}}",
    "train.duration": "4epochs",
    "train.tokens_per_micro_batch": "70",
    **_TRAINING,
}


def everything() -> list[str]:
    """``EVERYTHING`` as ``--set`` arguments."""
    return _arguments(EVERYTHING)


def all_axes(shards: Path) -> list[str]:
    """``ALL_AXES`` as ``--set`` arguments, for toy shards, beside which the level is written."""
    resize_levels(shards, [LEVEL])
    return _arguments(ALL_AXES)


def _arguments(settings: dict[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
