"""What leaves a run, held against the run itself."""
