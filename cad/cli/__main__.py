"""``python -m cad.cli``."""

from cad.cli import main

if __name__ == "__main__":
    main()
