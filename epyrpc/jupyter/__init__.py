"""Everything that knows IPython: magics, cells that run in a body, where output goes, how things look."""
