"""What BEiT's relative position bias costs a step on kept patches, and what other ways to make it would."""
