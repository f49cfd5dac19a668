"""``python -m specinn`` is the command ``specinn``."""

from specinn.cli import main

if __name__ == "__main__":
    main()
