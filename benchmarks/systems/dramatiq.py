"""dramatiq with 100 worker threads in one process; its default middleware.

The pool may grow past the 100 connections that redis-py 8 allows unless told otherwise.
"""

from __future__ import annotations

import math
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.program import SyncSystem, main


class Dramatiq(SyncSystem):
    def open(self):
        self.broker = RedisBroker(url=f"{self.spec.redis}?max_connections=1000")
        dramatiq.set_broker(self.broker)

        def bench(number):
            self.handle(number)

        self.actor = dramatiq.actor(bench, actor_name="bench", broker=self.broker)

    def enqueue(self, number):
        self.actor.send(number)

    def enqueue_at(self, number, moment):
        self.actor.send_with_options(args=(number,), delay=math.ceil((moment - time.time()) * 1000))

    def work(self):
        self.open()
        dramatiq.Worker(self.broker, worker_threads=self.spec.concurrency).start()
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main(Dramatiq)
