"""What benchmarks and tests share: data sets made on the spot, images that are broken, launching, two hosts."""
