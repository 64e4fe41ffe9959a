import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from jpeg_files import addressable_jpeg, encoded, picture
from PIL import Image
from pixels import full_images

from benchmarks.shared.shard_files import write_tar
from engine.config import load_config
from engine.run_plan import build_schedule
from pipeline.loader import PatchLoader
from pipeline.operations import IDENTITY, OPERATION_NAMES
from pipeline.plan.step import TrainPlanner
from pipeline.selection.patches import patchify
from pipeline.shards.index import build_index, open_index
from pipeline.train_plans import TrainPlans
from tools.inspect.__main__ import main
from tools.inspect.inspection import inspect_step, row_label
from tools.inspect.picture import greyed_out
from tools.shards.__main__ import main as shards_main
from tools.shards.levels.resize import resize_levels

NUM_STEPS = 24  # two epochs of 96 images in batches of 8


def write_config(path: Path, shards: Path, **sections: dict) -> Path:
    values = {
        "name": "garments",
        "data": {
            "train": str(shards),
            "val": str(shards),
            "num_classes": 10,
            "image_size": 28,
            "patch_size": 4,
            "augment": {"crop": "pad"},
        },
        "schedule": {"kind": "linear", "keep_rate": [0.2, 1.0]},
        "model": {"name": "vit_tiny_patch16_224"},
        "train": {"duration": "2epochs", "global_batch_size": 8},
        "optim": {"lr": 0.001},
    }
    path.write_text(yaml.safe_dump(values | sections))
    return path


@pytest.fixture
def config(garment_shards: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / "garments.yaml", garment_shards)


def inspect_json(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str) -> dict:
    assert main(["--config", str(config), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


# The plan


def test_json_has_exactly_the_promised_keys_and_types(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    shown = inspect_json(capsys, config, "--step", "13")
    about = ["step", "epoch", "rank", "world_size", "keep_rate", "num_kept", "image_size", "patch_size", "samples"]
    assert list(shown) == about
    assert (shown["step"], shown["epoch"], shown["rank"], shown["world_size"]) == (13, 1, 0, 1)
    assert shown["keep_rate"] == 0.8
    assert shown["num_kept"] == 39
    assert len(shown["samples"]) == 8
    for sample in shown["samples"]:
        assert list(sample) == ["key", "shard", "label", "crop", "flip"]
        assert [type(sample[name]) for name in ("key", "shard", "label", "flip")] == [str, str, int, bool]
        top, left, bottom, right = sample["crop"]
        assert bottom - top == right - left == 28


def test_json_tells_what_is_planned_beyond_crop_and_flip(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    on = "data.augment={crop: pad, auto: {kind: randaugment}, mixup: 0.8, cutmix: 1, erase_probability: 0.5}"
    samples = inspect_json(capsys, config, "--step", "13", "--set", on)["samples"]
    plan = inspect_step(load_config(config, [on]), 13).plan.augment
    assert plan is not None
    for row, sample in enumerate(samples):
        assert list(sample) == ["key", "shard", "label", "crop", "flip", "augment", "mix", "erase"]
        assert plan.auto_ops is not None
        applied = [OPERATION_NAMES[op] for op in plan.auto_ops[row] if op != IDENTITY]
        assert [op["op"] for op in sample["augment"]] == applied
        assert all(sorted(op) == ["magnitude", "op"] for op in sample["augment"])
        assert all(op["magnitude"] is None or 4 < abs(op["magnitude"]) <= 10 for op in sample["augment"])
        assert plan.mix_weights is not None
        assert plan.mix_labels is not None
        assert sample["mix"]["partner"] == samples[row ^ 1]["key"]
        assert sample["mix"]["weight"] == plan.mix_weights[row]
        assert samples[row ^ 1]["label"] == plan.mix_labels[row]
    boxes = [box for sample in samples for box in (sample["mix"]["box"], sample["erase"]) if box is not None]
    assert 2 < len(boxes) < 16
    assert all(0 <= top < bottom <= 28 and 0 <= left < right <= 28 for top, left, bottom, right in boxes)


def test_strengths_that_follow_a_schedule_are_told_as_the_step_has_them(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    assert "magnitude" not in inspect_json(capsys, config, "--step", "13")
    growing = "data.augment.auto={kind: randaugment, magnitude: {kind: steps, values: [[0, 2], [0.001, 3]]}}"
    assert inspect_json(capsys, config, "--step", "0", "--set", growing)["magnitude"] == 2
    assert inspect_step(load_config(config, [growing]), 13).title().split(", ")[-2] == "magnitude 3"


def test_json_says_nothing_of_what_is_off(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    on = ["--set", "data.augment.color_jitter=0.3"]
    [sample, *_] = inspect_json(capsys, config, "--step", "13", *on)["samples"]
    assert list(sample) == ["key", "shard", "label", "crop", "flip", "jitter"]
    assert list(sample["jitter"]) == ["brightness", "contrast", "saturation"]
    on = ["--set", "data.augment.mixup=0.3", "--set", "data.augment.mix_probability=0.000001"]
    [sample, *_] = inspect_json(capsys, config, "--step", "13", *on)["samples"]
    assert sample["mix"] is None


def test_an_epoch_that_leaves_examples_out_says_what_they_weigh_and_where_only_the_run_knows_them(
    capsys: pytest.CaptureFixture[str], garment_shards: Path, tmp_path: Path
) -> None:
    """Of four epochs the first three have 6 of 12 steps; before the first one nothing is known."""
    examples = {"rule": "loss", "keep": 0.5}
    train = {"duration": "4epochs", "global_batch_size": 8}
    config = write_config(tmp_path / "few.yaml", garment_shards, schedule={"examples": examples}, train=train)
    assert [sample["example_weight"] for sample in inspect_json(capsys, config, "--step", "5")["samples"]] == [2.0] * 8
    last = inspect_json(capsys, config, "--step", "18")
    assert last["epoch"] == 3
    assert "example_weight" not in last["samples"][0]
    assert main(["--config", str(config), "--step", "6"]) == 2
    assert "follow from the scores of all samples at step 6, and none are there" in capsys.readouterr().err


def test_the_label_of_a_mixed_image_names_both_with_their_weights(config: Path) -> None:
    plan = inspect_step(load_config(config, ["data.augment.mixup=0.8"]), 3).plan
    assert plan.augment is not None
    assert plan.augment.mix_weights is not None
    weights, names = plan.augment.mix_weights, [f"class-{i}" for i in range(10)]
    for row, own in enumerate(plan.labels):
        other = plan.labels[row ^ 1]
        first, second = row_label(plan, row, names).split("\n")
        assert first == f"{weights[row]:.2f} {own} class-{own}"
        assert second == f"{1 - weights[row]:.2f} {other} class-{other}"


def test_the_samples_are_those_that_a_run_trains_on(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    run = load_config(config)
    index = open_index(run.data.train, "train")
    planner = TrainPlanner(index, run.data, run.selection, build_schedule(run, index.num_samples), 8, run.seed)
    plans = TrainPlans(planner, first_step=20, stop_step=21, micro_batch_size=4)
    with PatchLoader(planner, plans, batch_size=4, num_threads=1) as loader:
        trained = [
            (index.key(sample_id), int(label), batch.ids_keep.shape[1])
            for batch in loader
            for sample_id, label in zip(batch.plan.sample_ids, batch.labels, strict=True)
        ]
    shown = inspect_json(capsys, config, "--step", "20")
    assert [(sample["key"], sample["label"], shown["num_kept"]) for sample in shown["samples"]] == trained


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_parts_make_up_the_batch(capsys: pytest.CaptureFixture[str], config: Path, world_size: int) -> None:
    whole = inspect_json(capsys, config, "--step", "5")
    parts = [
        inspect_json(capsys, config, "--step", "5", "--world", str(world_size), "--rank", str(rank))
        for rank in range(world_size)
    ]
    assert [sample for part in parts for sample in part["samples"]] == whole["samples"]
    assert [part["rank"] for part in parts] == list(range(world_size))


def test_overrides_apply(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    before = inspect_json(capsys, config, "--step", "5")
    after = inspect_json(
        capsys, config, "--step", "5", "--set", "seed=1", "--set", "schedule={kind: constant, keep_rate: 0.5}"
    )
    assert after["keep_rate"] == 0.5
    assert after["samples"] != before["samples"]


def test_the_table_names_every_sample(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    shown = inspect_json(capsys, config, "--step", "0")
    assert main(["--config", str(config), "--step", "0"]) == 0
    title, _, header, *rows = capsys.readouterr().out.splitlines()
    assert "step 0" in title
    assert "keep rate 0.2" in title
    assert "num_kept 9 of 49" in title
    assert "rule contrast" in title
    assert " ".join(header.split()) == "row key shard label crop: top left bottom right flip num_kept"
    assert len(rows) == len(shown["samples"])
    for row, sample in zip(rows, shown["samples"], strict=True):
        cells = row.split()
        assert cells[1:4] == [sample["key"], sample["shard"], str(sample["label"])]
        assert list(map(float, cells[4:8])) == sample["crop"]
        assert cells[8:] == ["yes" if sample["flip"] else "no", "9"]


def test_reading_a_plan_needs_no_image(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    code = (
        "import sys; from tools.inspect.__main__ import main; "
        f"assert main(['--config', {str(config)!r}, '--step', '0']) == 0; assert 'nvidia.dali' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


# The picture


def test_everything_but_the_kept_patches_is_faded(garment_shards: Path, config: Path) -> None:
    shown = inspect_step(load_config(config), 8)
    data = shown.config.data
    full = patchify(full_images(shown.index, shown.plan, data), data.patch_size)
    ids_keep = np.array([[0, 3, 48]] * len(full), dtype=np.int32)
    kept = np.take_along_axis(full, ids_keep[..., None], axis=1)
    drawn = patchify(greyed_out(full, kept, ids_keep, data.patch_size), data.patch_size)
    for image, original in zip(drawn, full, strict=True):
        for patch in range(49):
            if patch in (0, 3, 48):
                np.testing.assert_array_equal(image[patch], original[patch])
            else:
                assert image[patch].min() > 100, "a faded patch has no dark pixels"
                red, _, blue = image[patch].reshape(-1, 3).T.astype(int)
                assert (blue > red).all(), "and a colour that these images do not have"


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(1, []), (8, []), (72, []), (8, ["--set", "schedule.image_size={kind: constant, values: 20}"])],
)
def test_a_picture_of_the_batch_is_drawn(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, batch_size: int, sizes: list[str]
) -> None:
    png = tmp_path / "step.png"
    batch = ["--set", f"train.global_batch_size={batch_size}", "--set", "data.device=gpu", *sizes]
    assert main(["--config", str(config), "--step", "1", "--png", str(png), *batch]) == 0
    with Image.open(png) as image:
        colors = len(set(image.convert("RGB").resize((200, 200)).get_flattened_data()))
        assert image.format == "PNG"
    assert colors > 50
    assert len(capsys.readouterr().out.splitlines()) == batch_size + 3


def test_names_of_classes_that_are_no_utf8_or_look_like_formulas_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str], garment_shards: Path, tmp_path: Path
) -> None:
    shutil.copytree(garment_shards, tmp_path / "shards")
    names = [b"caf\xe9".decode("utf-8", "surrogateescape"), *["$\\frac{$ $x$"] * 9]
    (tmp_path / "shards/dataset.json").write_text(json.dumps({"classes": names}))
    config = write_config(tmp_path / "garments.yaml", tmp_path / "shards")
    assert main(["--config", str(config), "--step", "1", "--png", str(tmp_path / "step.png")]) == 0
    capsys.readouterr().out.encode()


def test_photographs_are_drawn_too(photo_shards: Path, tmp_path: Path) -> None:
    data = {"train": str(photo_shards), "val": str(photo_shards), "num_classes": 5, "image_size": 64}
    config = write_config(tmp_path / "photos.yaml", photo_shards, data=data, selection={"rule": "grid"})
    on = "data.augment={auto: {kind: trivialaugment}, mixup: 0.8, cutmix: 1, erase_probability: 0.5, repeats: 2}"
    assert main(["--config", str(config), "--step", "0", "--png", str(tmp_path / "step.png"), "--set", on]) == 0
    assert (tmp_path / "step.png").stat().st_size > 10_000


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "24"], "--step 24 is outside the run, whose steps are 0 to 23"),
        (["--step", "-1"], "--step -1 is outside the run"),
        (["--step", "1", "--rank", "2", "--world", "2"], "--rank is 0 to 1 with --world 2, got 2"),
        (["--step", "1", "--rank", "-1"], "--rank is 0 to 0 with --world 1, got -1"),
        (["--step", "1", "--world", "0"], "--world is at least 1, got 0"),
        (["--step", "1", "--world", "3"], "global_batch_size 8 is not divided by 3 ranks"),
        (["--step", "one"], "argument --step: invalid int value: 'one'; see --help"),
        ([], "required: --step; see --help"),
        (["--step", "1", "--set", "schedule.keep_rat=1"], "did you mean 'keep_rate'?"),
        (["--step", "1", "--set", "data.train=/nowhere"], "shard folder /nowhere does not exist"),
        (["--step", "1", "--png", "step.jpg"], "argument --png: this writes a .png file, got step.jpg"),
        (["--step", "1", "--png", "/nowhere/step.png"], "the folder /nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], config: Path, arguments: list[str], message: str
) -> None:
    assert main(["--config", str(config), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_the_command_exits_with_the_code(config: Path) -> None:
    command = [sys.executable, "-m", "tools.inspect", "--config", str(config), "--step", "99"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --step 99")


def test_the_picture_of_the_operations_has_each_of_them(config: Path, tmp_path: Path) -> None:
    picture = tmp_path / "operations.png"
    on = ["--set", "data.augment.auto={kind: trivialaugment}", "--operations", str(picture)]
    assert main(["--config", str(config), "--step", "2", *on]) == 0
    drawn = np.asarray(Image.open(picture).convert("RGB"))
    assert drawn.shape[0] > 500
    assert drawn.std() > 20


def test_without_automatic_augmentation_there_are_no_operations_to_draw(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "--step", "2", "--operations", str(tmp_path / "x.png")]) == 2
    assert "give --set 'data.augment.auto={kind: randaugment}'" in capsys.readouterr().err


def test_the_picture_of_what_is_decoded_shows_holes_outside_of_kept_patches(tmp_path: Path) -> None:
    members = [
        member
        for number in range(8)
        for member in ((f"{number}.jpg", addressable_jpeg(number, 160, 120)), (f"{number}.cls", b"0"))
    ]
    build_index(tmp_path, "train", [write_tar(tmp_path / "train-0.tar", members)])
    sections = {"data": {"train": str(tmp_path), "val": str(tmp_path), "num_classes": 10}}
    config = write_config(tmp_path / "photographs.yaml", tmp_path, selection={"rule": "random"}, **sections)
    whole, holes = tmp_path / "whole.png", tmp_path / "holes.png"
    full = ["--set", "schedule={kind: constant, keep_rate: 1.0}"]
    assert main(["--config", str(config), "--step", "0", "--decoded", str(holes)]) == 0
    assert main(["--config", str(config), "--step", "0", "--decoded", str(whole), *full]) == 0
    pictures = [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (holes, whole)]
    height, width, _ = pictures[0].shape
    middle = np.s_[height // 20 :, width // 3 + 10 : 2 * width // 3 - 10]  # the column of what is decoded
    assert pictures[0].shape == pictures[1].shape
    assert (np.abs(pictures[0][middle] - pictures[1][middle]).max(axis=2) > 20).mean() > 0.02


def test_where_crops_are_not_resized_nothing_is_decoded_in_part(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    assert main(["--config", str(config), "--step", "2", "--decoded", str(tmp_path / "x.png")]) == 2
    assert "data.augment.crop is pad; images are decoded in part under resized alone" in capsys.readouterr().err


def test_levels_are_named_where_there_are_any(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    members = [
        member
        for number in range(8)
        for member in ((f"{number}.jpg", encoded(picture(number, 90 + number, 60))), (f"{number}.cls", b"0"))
    ]
    write_tar(tmp_path / "train-0.tar", members)
    write_tar(tmp_path / "val-0.tar", members)
    assert shards_main(["index", str(tmp_path)]) == 0
    resize_levels(tmp_path, [40, 30])
    data = {"num_classes": 2, "image_size": 28, "patch_size": 4, "train": str(tmp_path), "val": str(tmp_path)}
    train = {"duration": "9steps", "global_batch_size": 8}
    file = write_config(tmp_path / "toy.yaml", tmp_path, data=data | {"levels": [40, 30]}, train=train)
    capsys.readouterr()
    found = [one["level"] for step in range(9) for one in inspect_json(capsys, file, "--step", str(step))["samples"]]
    assert set(found) <= {None, 40, 30}
    assert {None, 40} <= set(found)
    assert main(["--config", str(file), "--step", "0", "--decoded", str(tmp_path / "decoded.png")]) == 0
    operations = ["--set", "data.augment.auto={kind: randaugment}", "--operations", str(tmp_path / "operations.png")]
    assert main(["--config", str(file), "--step", "0", *operations]) == 0
