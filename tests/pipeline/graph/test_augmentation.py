from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import augmenting
import numpy as np
import pytest
import reference
from augmenting import GPU_DISTANCES, value_at, with_operations
from hypothesis import given, settings
from hypothesis import strategies as hyp
from nvidia.dali import backend_impl, fn, pipeline_def
from pixels import at_keep_rate, expected_image, full_images, run_graph, train_planner

from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph import augmentation, nodes
from pipeline.graph.augmentation import INPUTS, augment_arrays
from pipeline.graph.graph import define_graph
from pipeline.graph.inputs import input_names
from pipeline.graph.rows import mean_color
from pipeline.graph.settings import GraphSettings
from pipeline.loader import PatchLoader
from pipeline.operations import OPERATIONS, SUITES, levels_of
from pipeline.plan.augmentation import AugmentPlan
from pipeline.plan.erasing import box_noise, noise_tables
from pipeline.plan.step import StepPlan, TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig, select
from pipeline.selection.patches import patchify
from pipeline.shards.index import ShardIndex, open_index
from pipeline.train_plans import TrainPlans

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
    of = {"auto": ("auto_ops", "auto_magnitudes", "auto_values"), "color_jitter": ("jitter",)}
    kept = AugmentPlan(**{name: getattr(plan.augment, name) for key in augment for name in of[key]})
    return full_images(index, replace(plan, augment=kept), photo_data(index, **augment))


# Automatic augmentation and colours


# How far an operation may be from Pillow's, in levels: at most, and on average. See docs/augmentation.md.
DISTANCES = {
    **dict.fromkeys(("translate_x", "translate_y", "shear_x", "shear_y", "rotate"), (2, 0.6)),
    **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), (1, 0.02)),
    "blur": (24, 1.2),
}


@pytest.mark.parametrize("share", [0.0, 0.23, 0.9, 1.0, -0.7, -1.0])
@pytest.mark.parametrize("kind", SUITES)
def test_every_operation_does_what_it_does_in_pillow(photos: ShardIndex, kind: str, share: float) -> None:
    names = [name for name, level in levels_of(kind).items() if share >= 0 or level.goes_either_way]
    if not names:
        return
    ops = [names[row % len(names)] for row in range(32)]
    values = [value_at(kind, op, share) for op in ops]
    plan, data = planned(photos, auto={"kind": kind})
    plan = with_operations(plan, [[op] for op in ops], [[value] for value in values])
    fill = tuple(mean_color(data).tolist())
    images = before(photos, plan)
    for row, got in enumerate(full_images(photos, plan, data)):
        want = augmenting.operated(images[row], ops[row], values[row], fill)
        difference = np.abs(got.astype(int) - want)
        most, mean = DISTANCES.get(ops[row], (0, 0))
        if (
            OPERATIONS[ops[row]].kind == "affine"
        ):  # a pixel whose centre falls on the border may be on either side of it
            off = (difference > most).any(axis=2).sum()
            assert off <= 0.02 * difference[..., 0].size, (ops[row], values[row], off)
            difference = np.where((difference > most).any(axis=2, keepdims=True), 0, difference)
        assert difference.max() <= most, (ops[row], values[row])
        assert difference.mean() <= mean, (ops[row], values[row])


def test_operations_follow_one_another_in_the_planned_order(photos: ShardIndex) -> None:
    plan, data = planned(photos, auto={"kind": "randaugment", "num_ops": 3})
    rows = [
        ["posterize", "invert", "solarize"],
        ["equalize", "posterize", "identity"],
        ["grey", "auto_contrast", "invert"],
    ]
    values = [[3.0, 0.0, 100.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    ops, values = [rows[i % 3] for i in range(32)], [values[i % 3] for i in range(32)]
    plan = with_operations(plan, ops, values)
    images = before(photos, plan)
    for row, got in enumerate(full_images(photos, plan, data)):
        want = images[row]
        for op, value in zip(ops[row], values[row], strict=True):
            want = augmenting.operated(want, op, value, (0, 0, 0))
        np.testing.assert_array_equal(got, want)


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


# On demand


@settings(deadline=None, max_examples=60)
@given(hyp.data())
def test_patches_on_demand_are_those_of_the_whole_image_bit_for_bit(photos: ShardIndex, data: hyp.DataObject) -> None:
    """Any operations in any order, any mixing and erasing, at any keep rate, for kept patches and the others."""
    kinds = hyp.sampled_from(["randaugment", "trivialaugment", "threeaugment", None])
    kind = data.draw(kinds)
    names = list(OPERATIONS) if kind is not None else []
    num_levels = data.draw(hyp.integers(0, 4)) if kind is not None else 0
    rng = np.random.default_rng(data.draw(hyp.integers(0, 2**32)))
    ops = [[names[i] for i in rng.integers(0, len(names), num_levels)] for _ in range(8)]
    values = [[random_value(op, rng) for op in row] for row in ops]
    settings_of = {"mixup": 0.8, "cutmix": 1.0, "erase_probability": 0.7} if data.draw(hyp.booleans()) else {}
    config = photo_data(photos, **settings_of, **({"auto": {"kind": "randaugment"}} if num_levels else {}))
    config = config.model_copy(update={"route": data.draw(hyp.sampled_from(["auto", "resample_first"]))})
    selection = SelectionConfig(rule="random")
    planner = train_planner(photos, config, selection=selection, global_batch_size=8)
    plan = planner.plan(data.draw(hyp.integers(0, 99)))
    if num_levels:
        assert plan.augment is not None
        chosen = with_operations(plan, ops, values).augment
        assert chosen is not None
        auto = {name: getattr(chosen, name) for name in ("auto_ops", "auto_magnitudes", "auto_values")}
        plan = replace(plan, augment=replace(plan.augment, **auto))
    num_kept = data.draw(hyp.integers(1, config.num_patches))
    whole = patchify(full_images(photos, plan, config, selection), config.patch_size)
    [(patches, ids)] = run_graph(photos, [at_keep_rate(plan, num_kept, 0.5)], config, selection)
    np.testing.assert_array_equal(patches, np.take_along_axis(whole, ids[..., None].astype(np.int64), axis=1))


def random_value(op: str, rng: np.random.Generator) -> float:
    suites = [levels for kind in SUITES if op in (levels := levels_of(kind))]
    level = suites[rng.integers(len(suites))][op]
    share = rng.random() * (1 if not level.goes_either_way or rng.random() < 0.5 else -1)
    return float(level.value(np.array([share]))[0])


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
    plans = TrainPlans(
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
@pytest.mark.parametrize("sizes_vary", [False, True])
def test_no_operator_draws_anything_and_each_exists_for_its_device(
    photos: ShardIndex, settings: dict, crop: str, device_id: int | None, sizes_vary: bool
) -> None:
    backend: Any = backend_impl
    registered = {
        "cpu": {*backend.RegisteredCPUOps(), "DLTensorPythonFunctionImpl", "NumbaFuncImpl"},
        "gpu": set(backend.RegisteredGPUOps()),
        "mixed": set(backend.RegisteredMixedOps()),
    }
    data = photo_data(photos, **settings, crop=crop)
    used = operators(GraphSettings(data, SelectionConfig(), crop, 8, 1, device_id=device_id, sizes_vary=sizes_vary))
    assert len(used) > 10
    for operator in used:
        assert not operator.schema.HasRandomSeedArg(), f"{operator.schema.Name()} draws numbers"
        assert operator.schema.Name() in registered[operator.device], f"{operator.schema.Name()} on {operator.device}"
    if device_id is not None:
        assert not [one for one in used if "PythonFunction" in one.schema.Name() or "Numba" in one.schema.Name()]


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
        return [list(images), *(list(array) for array in arrays.values())]

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
    arrays = {name: arrays[name] for name in augmentation.input_names(data.augment)}
    color = mean_color(data).tolist()

    def operators(images: Any, inputs: dict[str, Any]) -> Any:
        images = nodes.blend(images, inputs["partner"], inputs["blend_weight"])
        images = nodes.paste_boxes(
            images, inputs["paste_ids"], inputs["paste_anchors"], inputs["paste_shapes"], data.image_size
        )
        start, shape = inputs["erase_start"], inputs["erase_shape"]
        if mode == "mean":
            return nodes.fill_boxes(images, start, shape, color)
        return nodes.fill_boxes_with_noise(images, inputs["erase_noise"], start, shape, data.image_size)

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


@pytest.mark.parametrize("kind", SUITES)
def test_the_gpus_operators_do_what_the_kernels_do_or_say_how_they_differ(photos: ShardIndex, kind: str) -> None:
    names = list(levels_of(kind))
    ops = [names[row % len(names)] for row in range(32)]
    values = [value_at(kind, op, 0.6) for op in ops]
    one = {"num_ops": 1} if SUITES[kind].is_set else {}
    plan, data = planned(photos, auto={"kind": kind, **one})
    plan = with_operations(plan, [[op] for op in ops], [[value] for value in values])
    arrays = augment_arrays(plan, data)

    def operators(images: Any, inputs: dict[str, Any]) -> Any:
        return augmentation.augmented(images, inputs, data)

    got = run_nodes(before(photos, plan), arrays, operators)
    want = full_images(photos, plan, data)
    for row, op in enumerate(ops):
        difference = np.abs(got[row].astype(int) - want[row])
        if OPERATIONS[op].kind == "affine":
            inside = difference[8:-8, 8:-8]
            assert np.median(inside) <= 1, op
            continue
        most, mean = GPU_DISTANCES[op]
        assert difference.max() <= most, op
        assert difference.mean() <= mean, op
        assert difference.max() <= 1 or op in nodes.DIFFERENCES, f"{op} differs and nobody says so"


def test_an_operation_that_a_gpu_does_not_know_is_refused(photos: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, "mirror", OPERATIONS["invert"])
    monkeypatch.setitem(SUITES["threeaugment"].levels, "mirror", SUITES["randaugment"].levels["invert"])
    data = photo_data(photos, auto={"kind": "threeaugment"})
    assert data.augment.auto is not None
    with pytest.raises(ValueError, match=r"no node there does mirror; set data\.device to cpu"):
        nodes.auto_operations(data.augment.auto, data)
