"""Start the command line with ``python -m groundspeed``."""

from groundspeed.cli import main

if __name__ == "__main__":
    main()
