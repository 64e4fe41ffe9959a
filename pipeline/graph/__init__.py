"""From planned arrays and encoded images to patches: the DALI graph and what feeds it."""
