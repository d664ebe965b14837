"""How each label is judged: what models say of it, the noise of labels, and the list of both."""
