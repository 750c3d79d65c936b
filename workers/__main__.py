"""`python -m workers` is the command `finstill`."""

from workers.cli import main

main()
