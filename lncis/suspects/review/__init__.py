"""A list in the hands of people: the gallery, and the file that their decisions repair."""
