"""Models shown images and patches of other sizes than the configured, against timm's models of those sizes."""

import copy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from patch_models import MEAN, MODELS, SMALL, STD, cut_patches, make_ids, make_images, make_pair, reference_logits
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.compiled import compile_blocks, run_once
from engine.models.build import build_model, training_flops_per_image
from engine.models.patch_embed import PatchModel
from engine.snapshots import take_snapshot

# The two largest hold nothing that "custom grid" does not.
KINDS = [kind for kind in MODELS if kind not in ("tiny", "deit")]
each_model = pytest.mark.parametrize("kind", KINDS)
# One for each way in which a family places its patches.
FAMILIES = ("custom grid", "BEiT, all kinds of positions", "EVA-02", "learned rotary")


def other_sizes(model: PatchModel) -> dict[str, tuple[int, int]]:
    """Image and patch size by what changes."""
    (image_size, _), (patch_size, _) = model.patch_embed.img_size, model.patch_embed.patch_size
    grid = image_size // patch_size
    return {
        "a smaller image": ((grid // 2 + 1) * patch_size, patch_size),
        "a larger image": ((grid + 1) * patch_size, patch_size),
        "smaller patches": (image_size, patch_size // 2),
        "larger patches of the same grid": (2 * image_size, 2 * patch_size),
    }


EACH_CHANGE = ("a smaller image", "a larger image", "smaller patches", "larger patches of the same grid")


def resized(name: str, stored: Tensor, model: PatchModel, image_size: int, patch_size: int) -> Tensor:
    """One parameter at other sizes, by timm's and torch's own functions."""
    (old, _), new = model.patch_embed.grid_size, image_size // patch_size
    if name == "pos_embed":
        prefix = stored.shape[1] - old * old
        return resample_abs_pos_embed(stored, [new, new], [old, old], prefix, interpolation="bilinear")
    if name == "patch_embed.proj.weight":
        return resample_patch_embed(stored, [patch_size, patch_size], interpolation="bilinear")
    if name.endswith("relative_position_bias_table"):
        distances = stored[:-3].T.reshape(1, -1, 2 * old - 1, 2 * old - 1)
        wide = F.interpolate(distances, size=(2 * new - 1, 2 * new - 1), mode="bilinear", antialias=True)
        return torch.cat([wide[0].flatten(1).T, stored[-3:]])
    return stored


def timms_at(kind: str, model: PatchModel, image_size: int, patch_size: int) -> tuple[Any, dict[str, Tensor]]:
    """timm's own model of these sizes and its parameters, which lead back to the stored ones of ``model``."""
    name, _, _, options = MODELS[kind]
    plain = timm.create_model(name, img_size=image_size, patch_size=patch_size, num_classes=7, **options)
    parameters = {key: resized(key, p, model, image_size, patch_size) for key, p in model.named_parameters()}
    plain.load_state_dict({key: value.detach() for key, value in parameters.items()}, strict=False)
    return plain.eval(), parameters


def inputs_at(image_size: int, patch_size: int, share: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(image_size)
    images = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8)
    num_patches = (image_size // patch_size) ** 2
    num_kept = max(1, round(share * num_patches))
    ids = torch.stack([torch.randperm(num_patches)[:num_kept].sort().values for _ in range(2)])
    return images, cut_patches(images, ids, patch_size), ids


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *((kind, "a smaller image") for kind in KINDS),
        *((kind, change) for kind in FAMILIES for change in EACH_CHANGE[1:]),
    ],
)
def test_at_other_sizes_logits_and_gradients_are_those_of_timms_model_of_that_size(kind: str, change: str) -> None:
    model, _ = make_pair(kind)
    image_size, patch_size = other_sizes(model)[change]
    plain, parameters = timms_at(kind, model, image_size, patch_size)
    images, patches, ids = inputs_at(image_size, patch_size)
    logits = model(patches, ids.int(), image_size=image_size, patch_size=patch_size)
    expected = reference_logits(plain, images, ids)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    weights = torch.randn_like(logits)
    ours = torch.autograd.grad((logits * weights).sum(), list(model.parameters()))
    (expected * weights).sum().backward()
    theirs = dict(plain.named_parameters())
    for (name, stored), found in zip(model.named_parameters(), ours, strict=True):
        gradient = theirs[name].grad
        if parameters[name] is not stored:
            (gradient,) = torch.autograd.grad(parameters[name], stored, gradient)
        scale = float(gradient.abs().max()) + 1e-3
        torch.testing.assert_close(found, gradient, rtol=0, atol=1e-3 * scale, msg=f"{name} {kind} {change}")


@pytest.mark.parametrize("kind", FAMILIES)
def test_all_patches_of_another_grid_are_told_apart_from_a_part_of_the_configured_one(kind: str) -> None:
    model, _ = make_pair(kind)
    image_size, patch_size = other_sizes(model)["a smaller image"]
    plain, _ = timms_at(kind, model, image_size, patch_size)
    images, patches, ids = inputs_at(image_size, patch_size, share=1.0)
    with torch.no_grad():
        logits = model(patches, ids, image_size=image_size)
        torch.testing.assert_close(logits, reference_logits(plain, images, ids), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(logits, model(patches, ids), atol=1e-2)


@each_model
def test_at_the_configured_sizes_nothing_changes_by_a_bit(kind: str) -> None:
    model, _ = make_pair(kind)
    image_size, patch_size = model.patch_embed.img_size[0], model.patch_embed.patch_size[0]
    images, ids = make_images(model), make_ids(model, 5)
    patches = cut_patches(images, ids, patch_size)
    expected = model(patches, ids)
    expected.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    other = other_sizes(model)["a smaller image"]
    model(*inputs_at(*other)[1:], image_size=other[0], patch_size=other[1])  # leaves nothing behind
    logits = model(patches, ids, image_size=image_size, patch_size=patch_size)
    logits.square().sum().backward()
    assert torch.equal(logits, expected)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


class Matrices(TorchDispatchMode):
    """How many matrices are inverted or multiplied out of others."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_matrix_is_made_twice(kind: str) -> None:
    model, _ = make_pair(kind)
    image_size, patch_size = other_sizes(model)["smaller patches"]
    _, patches, ids = inputs_at(image_size, patch_size)
    counted = []
    for _ in range(2):
        with Matrices() as matrices:
            model(patches, ids, image_size=image_size, patch_size=patch_size)
        counted.append(matrices.calls)
    assert not [call for call in counted[1] if "svd" in call or "upsample" in call]


@pytest.mark.parametrize("kind", FAMILIES)
def test_under_autocast_parameters_are_resampled_in_float32(kind: str) -> None:
    model, _ = make_pair(kind)
    image_size, patch_size = other_sizes(model)["smaller patches"]
    _, patches, ids = inputs_at(image_size, patch_size)
    with torch.no_grad():
        expected = model(patches, ids, image_size=image_size, patch_size=patch_size)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(patches, ids, image_size=image_size, patch_size=patch_size)
    assert logits.dtype == torch.bfloat16
    assert float((logits.detach().float() - expected).norm() / expected.norm()) < 0.05
    logits.float().square().sum().backward()
    assert {None if p.grad is None else p.grad.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_model_in_bfloat16_takes_other_sizes_too(kind: str) -> None:
    model, _ = make_pair(kind)
    half = copy.deepcopy(model).to(torch.bfloat16)
    image_size, patch_size = other_sizes(model)["smaller patches"]
    _, patches, ids = inputs_at(image_size, patch_size)
    with torch.no_grad():
        logits, expected = (m(patches, ids, image_size=image_size, patch_size=patch_size) for m in (half, model))
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", FAMILIES)
def test_activation_checkpointing_changes_no_gradient_at_other_sizes(kind: str) -> None:
    model, _ = make_pair(kind)
    saving = copy.deepcopy(model)
    saving.set_grad_checkpointing(True)
    image_size, patch_size = other_sizes(model)["smaller patches"]
    _, patches, ids = inputs_at(image_size, patch_size)
    for one in (model, saving):
        one.train()
        one(patches, ids, image_size=image_size, patch_size=patch_size).square().sum().backward()
    for (name, a), (_, b) in zip(model.named_parameters(), saving.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("kind", ["custom grid", "BEiT, all kinds of positions", "EVA-02"])
def test_a_compiled_model_compiles_nothing_after_a_warm_up_at_each_size(kind: str) -> None:
    torch.compiler.reset()
    model, _ = make_pair(kind)
    model.train()
    sizes = other_sizes(model)
    steps = [(*sizes[change], *inputs_at(*sizes[change])[1:]) for change in ("a smaller image", "smaller patches")]
    plain = [model(patches, ids, image_size=i, patch_size=p).detach() for i, p, patches, ids in steps]
    compile_blocks(model, backend="aot_eager")
    for image_size, patch_size, patches, ids in steps:
        run_once(
            model,
            len(ids),
            ids.shape[1],
            (image_size // patch_size) ** 2,
            patches.shape[2],
            torch.device("cpu"),
            image_size=image_size,
            patch_size=patch_size,
        )
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled = [model(patches, ids, image_size=i, patch_size=p) for i, p, patches, ids in steps]
        sum(logits.square().sum() for logits in compiled).backward()
    for ours, reference in zip(compiled, plain, strict=True):
        torch.testing.assert_close(ours.detach(), reference, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


def test_a_snapshot_is_of_the_embedding_at_these_sizes() -> None:
    model, _ = make_pair("custom grid")
    image_size, patch_size = other_sizes(model)["smaller patches"]
    snapshot = take_snapshot(model, 3, image_size=image_size, patch_size=patch_size)
    _, patches, ids = inputs_at(image_size, patch_size, share=1.0)
    embedded = patches.float().numpy() @ snapshot.kernel.T + snapshot.offsets
    with torch.no_grad():
        seen = model._embed(patches, ids, model.patch_embed.sizes(image_size, patch_size))[:, model.num_prefix_tokens :]
    order = ids.argsort(1)
    expected = torch.stack([row[o] for row, o in zip(seen, order, strict=True)])
    torch.testing.assert_close(torch.from_numpy(embedded).float(), expected, rtol=1e-3, atol=1e-3)


def test_flops_count_the_patches_as_large_as_they_are() -> None:
    model, _ = make_pair("custom grid")
    difference = training_flops_per_image(model, 9, patch_size=8) - training_flops_per_image(model, 9)
    assert difference == 3 * 2 * 9 * 3 * (8**2 - 4**2) * model.embed_dim


def test_rotary_coordinates_that_timm_shifts_in_training_shift_at_other_sizes_too() -> None:
    name, image_size, patch_size, options = MODELS["DINOv3"]
    options = SMALL | {"rope_shift_coords": 0.5}
    settings = {"num_classes": 7, "mean": MEAN, "std": STD, "options": options}
    model = build_model(name, image_size=image_size, patch_size=patch_size, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    _, patches, ids = inputs_at(2 * image_size, patch_size)
    logits = {}
    for training, seed in ((True, 1), (True, 2), (False, 1), (False, 2)):
        torch.manual_seed(seed)
        logits[training, seed] = model.train(training)(patches, ids, image_size=2 * image_size).detach()
    assert not torch.allclose(logits[True, 1], logits[True, 2])
    assert torch.equal(logits[False, 1], logits[False, 2])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 30}, "a patch of 4 pixels does not divide an image of 30 pixels"),
        ({"patch_size": 5}, "a patch of 5 pixels does not divide an image of 28 pixels"),
        ({"image_size": 0}, "does not divide an image of 0 pixels"),
        ({"patch_size": 7}, r"patches must be uint8 \[batch, kept, 147\] \(7 x 7 pixels"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    model, _ = make_pair("custom grid")
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 5, 48, dtype=torch.uint8), torch.arange(5)[None], **sizes)


@pytest.mark.parametrize("kind", ["custom grid", "BEiT, as SimMIM fine-tunes it", "DINOv3"])
def test_a_patch_outside_the_steps_grid_is_an_error(kind: str) -> None:
    model, _ = make_pair(kind)
    image_size, patch_size = other_sizes(model)["a smaller image"]
    last = (image_size // patch_size) ** 2
    with pytest.raises(IndexError):
        model(
            torch.zeros(1, 1, 3 * patch_size**2, dtype=torch.uint8),
            torch.tensor([[last]]),
            image_size=image_size,
            patch_size=patch_size,
        )
