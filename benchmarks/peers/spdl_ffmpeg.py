"""SPDL's pipeline of threads, whose FFmpeg decodes, crops, resizes, mirrors and converts to RGB in one filter graph."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import torch

from benchmarks.loader_peers import Batches, Setting, num_bytes
from benchmarks.peers.samples import SampleFiles, is_mirrored, random_window, shuffled_batches
from pipeline.shards.index import open_index

_DEMUXERS = {"jpg": "jpeg_pipe", "png": "png_pipe"}  # named, so that FFmpeg need not find out


def missing() -> str | None:
    """Why it cannot run here, and what to do; None where it can."""
    if find_spec("spdl") is None:
        return "needs spdl: pip install -c constraints.txt -e '.[bench]'"
    import spdl.io

    try:
        spdl.io.utils.get_ffmpeg_versions()
    except RuntimeError:
        return "spdl finds none of the FFmpeg libraries 4 to 9: apt-get install ffmpeg"
    return None


def filters(width: int, height: int, size: int, rng: random.Random) -> str:
    """FFmpeg's description of a random resized crop and flip; it antialiases where it shrinks."""
    left, top, crop_width, crop_height = random_window(width, height, rng)
    crop = f"crop={crop_width}:{crop_height}:{left}:{top}"
    mirror = ",hflip" if is_mirrored(rng) else ""
    return f"{crop},scale={size}:{size}:flags=bilinear,format=pix_fmts=rgb24{mirror}"


@contextmanager
def spdl_loader(setting: Setting) -> Iterator[Batches]:
    """Each thread makes whole batches, as the hand-written loader's do."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    index = open_index(setting.shards, "train")
    demux = spdl.io.demux_config(format=_DEMUXERS[index.extension(0)])

    with SampleFiles(index) as files:

        def load(batch: tuple[int, list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
            number, samples = batch
            rng = random.Random(number)
            frames = []
            for sample in samples:
                wanted = filters(int(index.width[sample]), int(index.height[sample]), setting.image_size, rng)
                packets = spdl.io.demux_image(files.read(sample), demux_config=demux)
                frames.append(spdl.io.decode_packets(packets, filter_desc=wanted))
            images = spdl.io.to_torch(spdl.io.convert_frames(frames))
            return images, torch.from_numpy(index.label[samples].astype(np.int64))

        pipeline = (
            PipelineBuilder()
            .add_source(enumerate(shuffled_batches(index.num_samples, setting.batch_size)))
            .pipe(load, concurrency=setting.workers)
            .add_sink()
            .build(num_threads=setting.workers, max_failures=0)
        )
        with pipeline.auto_stop():
            yield ((len(labels), num_bytes((images, labels))) for images, labels in pipeline)
