"""`python -m shardwright` is the same command as `shardwright`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
