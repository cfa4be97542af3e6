"""``python -m aioasynq`` is ``aioasynq``."""

from __future__ import annotations

from aioasynq.cli.main import main

if __name__ == "__main__":
    main()
