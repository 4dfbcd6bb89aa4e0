"""Bodies: the supervised processes that handlers run in, and the head's handles to them."""
