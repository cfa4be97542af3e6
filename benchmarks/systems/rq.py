"""rq with its SimpleWorker, which does not fork for each job and runs one at a time: results not kept, JSON."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime

from redis import Redis
from rq import Queue
from rq.worker import SimpleWorker

from benchmarks.program import SyncSystem, main

NAME = "benchmarks.systems.rq.bench"
handle = None  #: set by the worker; rq imports the function by its name


def bench(number):
    handle(number)


class Rq(SyncSystem):
    def open(self):
        self.queue = Queue("bench", connection=Redis.from_url(self.spec.redis), serializer="json")

    def enqueue(self, number):
        self.queue.enqueue(NAME, number, result_ttl=0)

    def enqueue_many(self, numbers):
        self.queue.enqueue_many([Queue.prepare_data(NAME, (number,), result_ttl=0) for number in numbers])

    def enqueue_at(self, number, moment):
        self.queue.enqueue_at(datetime.fromtimestamp(moment, UTC), NAME, number, result_ttl=0)

    def work(self):
        importlib.import_module("benchmarks.systems.rq").handle = self.handle
        self.open()
        worker = SimpleWorker([self.queue], connection=self.queue.connection, serializer="json")
        worker.work(with_scheduler=True, logging_level="ERROR")


if __name__ == "__main__":
    main(Rq)
