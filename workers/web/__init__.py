"""The dashboard: pages rendered by the server, a little JavaScript of our own, nothing external."""
