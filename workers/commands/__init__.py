"""One file per command; each exports a click command of its own name."""
