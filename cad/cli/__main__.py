"""``python -m cad.cli``."""

from cad.cli.app import main

if __name__ == "__main__":
    main()
