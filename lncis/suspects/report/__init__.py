"""What a list says of the whole data set, how right it is, and what a review will find."""
