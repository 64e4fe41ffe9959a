"""The photographs that measurements are made on."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.photographs import NUM_CLASSES, photograph_jpeg, write_photographs
from pipeline.shards.index import open_index
from pipeline.shards.reader import SampleReader


def test_photographs_are_shards_with_an_index_and_both_splits(tmp_path: Path) -> None:
    assert write_photographs(tmp_path / "shards", 30) == {"train": 30, "val": 20}
    index = open_index(tmp_path / "shards", "train")
    assert np.bincount(index.label).tolist() == [3] * NUM_CLASSES
    with SampleReader(index) as reader:
        files = {image.tobytes() for image in reader.read(np.arange(index.num_samples))}
    assert files == {photograph_jpeg(number, number % NUM_CLASSES) for number in range(30)}


def test_photographs_are_the_size_of_imagenets() -> None:
    files = [photograph_jpeg(number, 0) for number in range(40)]
    assert 50_000 < np.mean([len(file) for file in files]) < 70_000
    images = [Image.open(io.BytesIO(file)) for file in files]
    assert {image.size for image in images} == {(500, 375), (375, 500)}
    # Sampling factors of the luma and the two chroma planes: 4:2:0.
    assert {component[1:3] for image in images for component in image.layer} == {(2, 2), (1, 1)}
