from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import augmenting
import numpy as np
import pytest
import reference
from nvidia.dali import backend_impl, fn, pipeline_def
from pixels import at_keep_rate, expected_image, full_images, run_graph, train_planner

from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph import augmentation, nodes
from pipeline.graph.augmentation import INPUTS, augment_arrays, mean_color
from pipeline.graph.graph import GraphSettings, define_graph, input_names
from pipeline.loader import PatchLoader, train_plans
from pipeline.plan.augmentation import AUTO_OPS, OPERATIONS, AugmentPlan
from pipeline.plan.erasing import box_noise, noise_tables
from pipeline.plan.step import StepPlan, TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig, select
from pipeline.selection.patches import patchify
from pipeline.shards.index import ShardIndex, open_index

pytestmark = pytest.mark.timeout(120)

SETTINGS = [
    augmenting.EVERYTHING,
    {"auto": {"kind": "trivialaugment"}, "mixup": 0.8, "erase_probability": 0.5, "erase_mode": "mean"},
    {"color_jitter": 0.4, "cutmix": 1.0},
]


@pytest.fixture(scope="module")
def photos(photo_shards: Path) -> ShardIndex:
    return open_index(photo_shards, "train")


def photo_data(index: ShardIndex, **augment: Any) -> DataConfig:
    """What is augmented is resampled first; so is here what that is compared with."""
    return DataConfig(
        train=index.folder,
        val=index.folder,
        num_classes=5,
        image_size=64,
        patch_size=16,
        augment=AugmentConfig(**augment),
        route="resample_first",
    )


def planned(index: ShardIndex, step: int = 0, **augment: Any) -> tuple[StepPlan, DataConfig]:
    data = photo_data(index, **augment)
    return train_planner(index, data, global_batch_size=32).plan(step), data


def before(index: ShardIndex, plan: StepPlan, **augment: Any) -> np.ndarray:
    """The images of a plan of which only this is carried out: uint8 [B, S, S, 3]."""
    return full_images(index, plan, photo_data(index, **augment))


# Automatic augmentation and colours


@pytest.mark.parametrize("kind", ["randaugment", "trivialaugment"])
def test_the_operations_are_those_of_dalis_suite_in_its_order(kind: str) -> None:
    suite = nodes.auto_suite(kind)
    assert tuple(one.name for one in suite) == AUTO_OPS
    assert [one.randomly_negate for one in suite] == [OPERATIONS[op].goes_either_way for op in AUTO_OPS]
    assert [one.mag_range is not None for one in suite] == [OPERATIONS[op].has_magnitude for op in AUTO_OPS]


@pytest.mark.parametrize("magnitude_bin", [0, 7, 27, 30])
@pytest.mark.parametrize("kind", ["randaugment", "trivialaugment"])
def test_every_operation_does_what_it_does_in_pillow(photos: ShardIndex, kind: str, magnitude_bin: int) -> None:
    auto = {"kind": kind, **({"num_ops": 1} if kind == "randaugment" else {})}
    plan, data = planned(photos, auto=auto)
    turns, ops = np.divmod(np.arange(plan.num_rows), len(AUTO_OPS))
    assert turns.max() >= 2, "every operation goes either way"
    signs = turns % 2
    chosen = AugmentPlan(*(np.asarray(x, np.int32)[:, None] for x in (ops, np.full(len(ops), magnitude_bin), signs)))
    images = before(photos, plan)
    for row, got in enumerate(full_images(photos, replace(plan, augment=chosen), data)):
        name = AUTO_OPS[ops[row]]
        want = augmenting.auto_augmented(images[row], kind, name, magnitude_bin, bool(signs[row]))
        difference = np.abs(got.astype(int) - want)
        if name in ("identity", "posterize", "solarize", "equalize"):
            assert difference.max() == 0, name
        elif name == "sharpness":  # Pillow leaves the outermost pixels as they are
            assert difference[1:-1, 1:-1].max() <= 1, name
        else:  # Pillow cuts fractions off, where DALI rounds, and for color those of the grey image too
            assert difference.max() <= (2 if name == "color" else 1), name


def test_operations_follow_one_another(photos: ShardIndex) -> None:
    plan, data = planned(photos, auto={"kind": "randaugment", "num_ops": 3})
    assert plan.augment is not None
    assert plan.augment.auto_ops is not None
    images = full_images(photos, plan, data)
    level = [replace(plan, augment=AugmentPlan(*one_level(plan.augment, number))) for number in range(3)]
    first = before(photos, level[0], auto={"kind": "randaugment", "num_ops": 1})
    exact = ("identity", "posterize", "solarize", "equalize")
    checked = 0
    for row in range(32):
        ops = [AUTO_OPS[op] for op in plan.augment.auto_ops[row]]
        if ops[1] in exact and ops[2] in exact:
            want = first[row]
            for number in (1, 2):
                choice = (int(array[row, 0]) for array in one_level(plan.augment, number))
                op, magnitude_bin, sign = choice
                want = augmenting.auto_augmented(want, "randaugment", AUTO_OPS[op], magnitude_bin, bool(sign))
            np.testing.assert_array_equal(images[row], want)
            checked += 1
    assert checked >= 2


def one_level(plan: AugmentPlan, number: int) -> list[np.ndarray]:
    arrays = (plan.auto_ops, plan.auto_bins, plan.auto_signs)
    return [array[:, number : number + 1] for array in arrays if array is not None]


def test_jitter_changes_saturation_brightness_and_contrast(photos: ShardIndex) -> None:
    plan, data = planned(photos, color_jitter=0.4)
    assert plan.augment is not None
    assert plan.augment.jitter is not None
    images = before(photos, plan)
    for row, got in enumerate(full_images(photos, plan, data)):
        brightness, contrast, saturation = plan.augment.jitter[row]
        want = augmenting.jittered(images[row], brightness, contrast, saturation)
        assert np.abs(got.astype(int) - want).max() <= 1


# The whole chain


def expected_chain(images: np.ndarray, plan: StepPlan, data: DataConfig) -> np.ndarray:
    """Images that are flipped and coloured already, mixed and erased one by one."""
    assert plan.augment is not None
    planned, result = plan.augment, []
    tables = noise_tables(data.mean, data.std)
    for row in range(plan.num_rows):
        image = images[row]
        if planned.mix_weights is not None and planned.cut_boxes is not None:
            image = augmenting.mixed(image, images[row ^ 1], planned.mix_weights[row], planned.cut_boxes[row])
        if planned.erase_boxes is not None and planned.erase_boxes[row].any():
            top, left, bottom, right = planned.erase_boxes[row].tolist()
            filling = mean_color(data)
            if planned.erase_keys is not None:
                filling = box_noise(int(planned.erase_keys[row]), bottom - top, right - left, tables)
            image = augmenting.erased(image, planned.erase_boxes[row], filling)
        result.append(image)
    return np.stack(result)


@pytest.mark.parametrize("settings", SETTINGS, ids=["everything", "trivialaugment and mean", "jitter and cutmix"])
def test_augmented_images_are_mixed_then_erased_with_the_planned_weights_and_boxes(
    photos: ShardIndex, settings: dict
) -> None:
    plan, data = planned(photos, 1, **settings)
    colour = {name: settings[name] for name in ("auto", "color_jitter") if name in settings}
    want = expected_chain(before(photos, plan, **colour), plan, data)
    difference = np.abs(full_images(photos, plan, data).astype(int) - want)
    assert difference.max() <= 1  # mixup alone may round the other way
    assert difference.mean() <= 0.01


def test_crop_flip_and_mixing_together_are_torchvisions_and_the_slow_way(photos: ShardIndex) -> None:
    plan, data = planned(photos, 2, mixup=0.8, cutmix=1.0, erase_probability=0.5)
    assert plan.flips.any()
    assert not plan.flips.all()
    cropped = np.stack([expected_image(photos, plan, row, data) for row in range(32)])
    difference = np.abs(full_images(photos, plan, data).astype(int) - expected_chain(cropped, plan, data))
    assert difference.mean() <= 0.3
    assert difference[:, 1:-1, 1:-1].max() <= 2
    assert difference.max() <= 10


@pytest.mark.parametrize(("settings", "rule"), [(SETTINGS[0], "contrast"), (SETTINGS[1], "random")])
def test_patches_are_selected_from_the_augmented_mixed_and_erased_image(
    photos: ShardIndex, settings: dict, rule: str
) -> None:
    selection = SelectionConfig(rule=rule)
    data = photo_data(photos, **settings)
    plan = train_planner(photos, data, selection=selection, global_batch_size=16).plan(0)
    images = full_images(photos, plan, data, selection)
    scores = np.stack([reference.contrast(image, 16) for image in images]).astype(np.float32)
    [(patches, ids_keep)] = run_graph(photos, [at_keep_rate(plan, 6, 0.4)], data, selection)
    np.testing.assert_array_equal(
        ids_keep, select(scores if rule == "contrast" else None, plan.noise, 6, data.grid_size, selection)
    )
    np.testing.assert_array_equal(patches, np.take_along_axis(patchify(images, 16), ids_keep[..., None], axis=1))


def test_validation_images_are_left_alone(photos: ShardIndex) -> None:
    data, plain = photo_data(photos, **augmenting.EVERYTHING), photo_data(photos)
    plan = ValidationPlanner(photos, data, SelectionConfig(), 1.0, 8, 0).plan(0)
    shown = [full_images(photos, plan, one, crop="centre") for one in (data, plain)]
    np.testing.assert_array_equal(*shown)
    settings = GraphSettings(data, SelectionConfig(), "centre", 8, 1, training=False)
    assert not set(input_names(settings)) & set(INPUTS)


# What must not matter


def content(batches: list[Batch]) -> list[tuple]:
    rows = []
    for batch in batches:
        assert batch.mix_labels is not None
        assert batch.mix_weights is not None
        for row in range(batch.num_images):
            values = (batch.patches, batch.ids_keep, batch.labels, batch.mix_labels, batch.mix_weights)
            place = (batch.plan.step, batch.plan.first_row + row)
            rows.append((*place, *(value[row].numpy().tobytes() for value in values)))
    return rows


def load(planner: TrainPlanner, index: ShardIndex, micro_batch_size: int, **how: int) -> list[tuple]:
    plans = train_plans(
        planner,
        first_step=how.get("first_step", 0),
        stop_step=4,
        micro_batch_size=micro_batch_size,
        rank=how.get("rank", 0),
        world_size=how.get("world_size", 1),
    )
    data = planner.data.model_copy(update={"prefetch_batches": how.get("prefetch_batches", 4)})
    with PatchLoader(
        replace(planner, data=data),
        plans,
        batch_size=micro_batch_size,
        num_threads=how.get("num_threads", 1),
    ) as loader:
        return content(list(loader))


def test_ranks_micro_batches_threads_prefetching_and_resuming_do_not_change_a_byte(photos: ShardIndex) -> None:
    selection = SelectionConfig(rule="contrast", temperature=0.05)
    data = photo_data(photos, **augmenting.EVERYTHING | {"auto": {"kind": "trivialaugment"}})
    planner = train_planner(photos, data, selection=selection, global_batch_size=16)
    whole = load(planner, photos, 16)
    assert [row[:2] for row in whole] == [(step, row) for step in range(4) for row in range(16)]
    assert load(planner, photos, 4, prefetch_batches=8, num_threads=2) == whole
    assert load(planner, photos, 16, prefetch_batches=1, first_step=3) == whole[48:]
    for world_size, micro_batch_size in ((2, 8), (4, 2)):
        parts = [load(planner, photos, micro_batch_size, rank=r, world_size=world_size) for r in range(world_size)]
        assert sorted(row for part in parts for row in part) == whole


# The graph itself


def operators(settings: GraphSettings) -> list[Any]:
    graph = define_graph(lambda _: (), settings)
    graph._build_graph()  # all of building that needs no GPU
    return [operator._op for operator in graph._ops]


@pytest.mark.parametrize("device_id", [None, 0], ids=["cpu", "gpu"])
@pytest.mark.parametrize("crop", ["resized", "pad"])
@pytest.mark.parametrize("settings", SETTINGS, ids=["everything", "trivialaugment and mean", "jitter and cutmix"])
def test_no_operator_draws_anything_and_each_exists_for_its_device(
    photos: ShardIndex, settings: dict, crop: str, device_id: int | None
) -> None:
    backend: Any = backend_impl
    registered = {
        "cpu": {*backend.RegisteredCPUOps(), "DLTensorPythonFunctionImpl", "NumbaFuncImpl"},
        "gpu": set(backend.RegisteredGPUOps()),
        "mixed": set(backend.RegisteredMixedOps()),
    }
    data = photo_data(photos, **settings, crop=crop)
    used = operators(GraphSettings(data, SelectionConfig(), crop, 8, 1, device_id=device_id))
    assert len(used) > 10
    for operator in used:
        assert not operator.schema.HasRandomSeedArg(), f"{operator.schema.Name()} draws numbers"
        assert operator.schema.Name() in registered[operator.device], f"{operator.schema.Name()} on {operator.device}"


def test_operators_that_draw_numbers_are_known_as_such() -> None:
    backend: Any = backend_impl
    for name in ("random__Uniform", "random__CoinFlip", "BatchPermutation", "noise__Gaussian", "RandomResizedCrop"):
        assert backend.GetSchema(name).HasRandomSeedArg()


def test_what_is_off_brings_no_operator_and_no_input(photos: ShardIndex) -> None:
    plain = GraphSettings(photo_data(photos), SelectionConfig(), "resized", 8, 1)
    off = GraphSettings(photo_data(photos, mixup=0.8, mix_probability=0), SelectionConfig(), "resized", 8, 1)
    assert input_names(plain) == input_names(off)
    assert not set(input_names(plain)) & set(INPUTS)
    names = [operator.schema.Name() for operator in operators(plain)]
    assert "DLTensorPythonFunctionImpl" not in names
    assert not {"_conditional__Split", "MultiPaste", "PermuteBatch", "Erase"} & set(names)


# The GPU's operators, which exist on a CPU as well


def run_nodes(images: np.ndarray, arrays: dict[str, list[np.ndarray]], operators: Callable[..., Any]) -> np.ndarray:
    names = list(arrays)

    def source(_: int) -> list[list[np.ndarray]]:
        return [list(images), *arrays.values()]

    @pipeline_def(batch_size=len(images), num_threads=1, device_id=None, exec_dynamic=True, enable_conditionals=True)
    def graph() -> Any:
        layouts = ["HWC", *[""] * len(names)]
        pixels, *inputs = fn.external_source(source=source, num_outputs=len(layouts), batch=True, layout=layouts)
        return operators(pixels, dict(zip(names, inputs)))  # noqa: B905, conditionals know no strict

    [pixels] = graph().run()
    return np.array(pixels.as_tensor())


@pytest.mark.parametrize("mode", ["pixel", "mean"])
def test_the_gpus_operators_mix_and_erase_as_numpy_does(photos: ShardIndex, mode: str) -> None:
    plan, data = planned(photos, mixup=0.8, cutmix=1.0, erase_probability=0.5, erase_mode=mode)
    arrays = augment_arrays(plan, data)
    arrays = {name: arrays[name] for name in augmentation.input_names(data.augment, on_gpu=True)}
    color = mean_color(data).tolist()

    def operators(images: Any, inputs: dict[str, Any]) -> Any:
        images = nodes.blend(images, inputs["partner"], inputs["blend_weight"])
        images = nodes.paste_boxes(
            images, inputs["paste_ids"], inputs["paste_anchors"], inputs["paste_shapes"], data.image_size
        )
        if mode == "mean":
            return nodes.fill_boxes(images, inputs["erase_start"], inputs["erase_shape"], color)
        return nodes.paste_noise(
            images, inputs["erase_noise"], inputs["noise_anchors"], inputs["erased"], data.image_size
        )

    got = run_nodes(before(photos, plan), arrays, operators)
    difference = np.abs(got.astype(int) - full_images(photos, plan, data))
    assert difference.max() <= 1
    assert difference.mean() <= 0.01


def test_a_pair_that_is_torn_apart_to_look_at_one_row_is_not_mixed(photos: ShardIndex) -> None:
    plan, data = planned(photos, mixup=0.8, cutmix=1.0)
    for row in (4, 7):
        alone = plan.rows(row, row + 1)
        np.testing.assert_array_equal(full_images(photos, alone, data), before(photos, alone))
        assert augment_arrays(alone, data)["paste_ids"][0].tolist() == [0, 0]
