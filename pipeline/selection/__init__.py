"""Which patches are kept: the rules, and the model's embedding that one of them looks through."""
