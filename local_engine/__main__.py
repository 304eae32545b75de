"""`python -m local_engine`: see `local_engine.cli`."""

from local_engine.cli import main

if __name__ == "__main__":
    main(prog_name="python -m local_engine")
