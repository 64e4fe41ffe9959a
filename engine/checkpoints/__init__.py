"""What a run is taken up from: states, manifests, and the choice of where to go on."""
