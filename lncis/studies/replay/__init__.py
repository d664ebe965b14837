"""What another pruner or sampler would have made of a finished study, from the curves in its journal alone."""
