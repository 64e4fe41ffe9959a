"""Further contenders of benchmarks.loader; two of them need packages of the optional group ``bench``."""
