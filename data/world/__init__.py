"""A small world that can be drawn in seconds, in the file formats of the real data sets."""
