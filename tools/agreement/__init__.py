"""Every rule beside the paper's."""
