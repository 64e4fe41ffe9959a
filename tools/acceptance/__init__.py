"""Does everything hold on a machine's GPU? The parts of tools/gpu_acceptance.sh."""
