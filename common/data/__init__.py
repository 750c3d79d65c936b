"""Reading, splitting and storing data sets."""
