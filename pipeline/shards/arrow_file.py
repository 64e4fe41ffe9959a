"""A table beside a shard or a set of them, as an Arrow file that can be mapped into memory."""

import io
from pathlib import Path

import pyarrow as pa

from pipeline.files import write_atomically


def write_table(path: Path, table: pa.RecordBatch, key: bytes, facts: str) -> None:
    """Write a table of one batch, under a temporary name first.

    Args:
        key: under which ``facts``, what the file says of itself, stand in the schema's metadata.
    """
    told = table.replace_schema_metadata({key: facts.encode()})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, told.schema) as writer:
        writer.write_batch(told)
    write_atomically(path, sink.getbuffer(), sync=True)
