"""One file per kind of thing; each has a `router`."""
