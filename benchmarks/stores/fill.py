"""Copies the files of a folder into a bucket, which is made if need be.

python -m benchmarks.stores.fill FOLDER s3://bucket/prefix
"""

import sys
from pathlib import Path

from benchmarks.shared.stores import put
from pipeline.addresses import Address

if __name__ == "__main__":
    put(Path(sys.argv[1]), Address.parse(sys.argv[2]))
