"""Settings of a toy run with everything switched on that training decides by, for tests and benchmarks of resuming."""

EVERYTHING = {
    "model.name": "beit_base_patch16_224",  # relative position bias, and absolute positions for the rule to see
    "model.options": "{embed_dim: 32, depth: 2, num_heads: 2, use_abs_pos_emb: true}",
    "model.drop_path": "0.2",
    "model.head_init_std": "0.01",
    "data.augment": "{crop: pad, pad_pixels: 1, auto: {kind: randaugment, num_ops: 1}, mixup: 0.8, cutmix: 1, "
    "erase_probability: 0.3, repeats: 2}",
    "selection": "{rule: magnitude, temperature: 0.5, estimate: sketch, estimate_size: 8, snapshot_at: stage}",
    "schedule.kind": "cyclic",
    "train.loss": "binary_cross_entropy",
    "train.label_smoothing": "0.1",
    "train.ema_decay": "0.9",
    "optim.layer_decay": "0.8",
    "engine.zero_stage": "1",
}


def everything() -> list[str]:
    """The same as ``--set`` arguments."""
    return [word for key, value in EVERYTHING.items() for word in ("--set", f"{key}={value}")]
