"""taskiq on uvloop with its Redis list broker, which acknowledges nothing; the rest as with the stream broker."""

from __future__ import annotations

from taskiq_redis import ListQueueBroker

from benchmarks.program import main
from benchmarks.systems.taskiq_stream import Taskiq


class TaskiqList(Taskiq):
    def make(self):
        return ListQueueBroker(self.spec.redis, max_connection_pool_size=200)


if __name__ == "__main__":
    main(TaskiqList)
