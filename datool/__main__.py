"""``python -m datool`` is the command ``datool``."""

from datool.cli import main

if __name__ == "__main__":
    main()
