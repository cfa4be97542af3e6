"""``python -m aioasynq`` is ``aioasynq``."""

from aioasynq.cli.main import main

if __name__ == "__main__":
    main()
