"""Everything that knows IPython: the magics, cells that run in a body, where output goes, how things look in a notebook."""
