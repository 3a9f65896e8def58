"""``python -m s2e_lens``."""

from s2e_lens.cli import main

if __name__ == "__main__":
    main()
