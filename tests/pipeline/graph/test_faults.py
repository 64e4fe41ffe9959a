"""Errors of a graph on a GPU, which is not there: its settings are, and so is what DALI would say."""

import pytest
from nvidia.dali.pipeline import Pipeline
from photo_plans import rising_planner

from benchmarks.shared.bad_images import HEIGHT, WIDTH, write_photo_shards
from benchmarks.shared.photographs import jpeg_bytes
from pipeline.graph.bad_samples import BadSampleError, RowReader
from pipeline.graph.faults import LoaderMemoryError, check_images_explain, memory_that_ran_out
from pipeline.graph.settings import GraphSettings
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex
from pipeline.shards.reader import SampleReader

BATCH = 16
SELECTION = SelectionConfig(rule="contrast")
# What DALI says of a GPU, as a whole and in an operator.
OUT_OF_MEMORY = "CUDA allocation failed"
ILLEGAL = "CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access was encountered"
NVJPEG = "nvJPEG error (6): the execution of CUDA kernels failed"


def in_operator(text: str) -> RuntimeError:
    return RuntimeError(f"Error in MIXED operator `nvidia.dali.fn.decoders.image`,\nencountered:\n\n{text}")


def on_a_gpu(planner: TrainPlanner) -> GraphSettings:
    return GraphSettings(planner.data, planner.selection, planner.crop, BATCH, num_threads=1, device_id=0)


def planner_of(index: ShardIndex) -> TrainPlanner:
    return rising_planner(index, SELECTION, global_batch_size=BATCH, total_steps=9, device="gpu")


def reader_of(index: ShardIndex, *, skip: bool) -> RowReader:
    planner = planner_of(index)
    return RowReader(index, SampleReader(index), on_a_gpu(planner), planner if skip else None)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_photo_shards(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Images 10 and 37 end too early, below what some crops see of them; as a whole they do not decode."""
    replaced = {number: jpeg_bytes(number, WIDTH, HEIGHT)[:-100] for number in (10, 37)}
    return write_photo_shards(tmp_path_factory.mktemp("damaged"), replaced)


@pytest.fixture(autouse=True)
def no_graph_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for bad images must not ask the GPU again, which may have no memory left."""
    build = Pipeline.build

    def build_on_processor(self: Pipeline, *how: object) -> None:
        assert self.device_id is None
        build(self, *how)

    monkeypatch.setattr(Pipeline, "build", build_on_processor)


@pytest.mark.parametrize("text", [OUT_OF_MEMORY, ILLEGAL, NVJPEG])
@pytest.mark.parametrize("skip", [True, False])
def test_a_gpu_that_fails_is_no_images_fault(sound: ShardIndex, text: str, skip: bool) -> None:
    error, settings = in_operator(text), on_a_gpu(planner_of(sound))
    reader = reader_of(sound, skip=skip)
    rows = [reader.read(planner_of(sound).plan(step)) for step in range(3)]
    with pytest.raises(RuntimeError, match=text.split()[0]) as raised:
        check_images_explain(error, settings, lambda: any(map(reader.examine, rows)))
    told = [raised.value, raised.value.__cause__]
    assert error in told, "the original error is raised, or what is told of it comes from it"


@pytest.mark.parametrize("text", [OUT_OF_MEMORY, ILLEGAL, NVJPEG])
def test_a_bad_image_is_found_whatever_the_gpu_says_of_it(damaged: ShardIndex, text: str) -> None:
    planner, reader = planner_of(damaged), reader_of(damaged, skip=True)
    plans = [planner.plan(step) for step in range(3)]  # an epoch
    rows = [reader.read(plan) for plan in plans]
    check_images_explain(in_operator(text), on_a_gpu(planner), lambda: any([*map(reader.examine, rows)]))
    again = [reader.read(plan) for plan in plans]
    assert sorted(bad.sample_id for one in again for bad in one.bad) == [10, 37]
    assert not any(map(reader.examine, again)), "substitutes decode"


def test_without_substitutes_a_bad_image_is_the_error(damaged: ShardIndex) -> None:
    planner, reader = planner_of(damaged), reader_of(damaged, skip=False)
    rows = [reader.read(planner.plan(step)) for step in range(3)]
    with pytest.raises(BadSampleError, match=r"'000(10|37)' in train-"):
        check_images_explain(in_operator(NVJPEG), on_a_gpu(planner), lambda: any([*map(reader.examine, rows)]))


def test_too_little_memory_on_a_gpu_is_one_line_with_what_to_do(sound: ShardIndex) -> None:
    with pytest.raises(LoaderMemoryError) as raised:
        check_images_explain(in_operator(OUT_OF_MEMORY), on_a_gpu(planner_of(sound)), lambda: False)
    text = str(raised.value)
    assert text.startswith("the loader ran out of the GPU's memory (CUDA allocation failed): set data.device: cpu")
    assert "train.micro_batch_size" in text
    assert "data.prefetch_batches" in text
    assert "\n" not in text


def test_any_other_error_of_a_gpu_keeps_its_words_and_says_that_all_images_decode(sound: ShardIndex) -> None:
    error = in_operator(ILLEGAL)
    with pytest.raises(RuntimeError, match="illegal memory access") as raised:
        check_images_explain(error, on_a_gpu(planner_of(sound)), lambda: False)
    assert raised.value is error
    assert "on GPU 0. All images of its batches can be decoded" in error.__notes__[0]


@pytest.mark.parametrize(("text", "looks"), [("bad_alloc", 0), ("Invalid JPEG", 1)])
def test_on_the_processor_words_tell_whether_to_look_at_images(sound: ShardIndex, text: str, looks: int) -> None:
    looked = []
    settings = GraphSettings(planner_of(sound).data, SELECTION, "resized", BATCH, num_threads=1)
    with pytest.raises(RuntimeError, match=text):
        check_images_explain(in_operator(text), settings, lambda: bool(looked.append(1)))
    assert len(looked) == looks


@pytest.mark.parametrize(
    ("error", "on_gpu", "whose"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True, "gpu"),
        (RuntimeError("CUDA error: out of memory"), True, "gpu"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, "gpu"),
        (RuntimeError("Can't allocate 100 bytes on device 0."), True, "gpu"),
        (MemoryError("CUDA allocation failed"), True, "gpu"),
        (RuntimeError("Can't allocate 100 bytes on host."), True, "host"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
            "host",
        ),
        (MemoryError(), True, "host"),
        (RuntimeError("out of memory"), True, "gpu"),
        (RuntimeError("out of memory"), False, "host"),
        (RuntimeError("an illegal memory access was encountered"), True, None),
        (ValueError("the batch is too large"), False, None),
    ],
)
def test_whose_memory_it_was(error: Exception, on_gpu: bool, whose: str | None) -> None:
    assert memory_that_ran_out(error, on_gpu=on_gpu) == whose
