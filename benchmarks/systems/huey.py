"""huey with 100 worker threads in one process, blocking reads, results not kept; it acknowledges nothing.

The pool may grow past the 100 connections that redis-py 8 allows unless told otherwise: the threads take all of them,
and none is left for the scheduler.
"""

from __future__ import annotations

import time

from huey import RedisHuey

from benchmarks.program import SyncSystem, main


class Huey(SyncSystem):
    def open(self):
        self.huey = RedisHuey("bench", url=f"{self.spec.redis}?max_connections=1000", results=False)

        def bench(number):
            self.handle(number)

        self.task = self.huey.task(name="bench")(bench)

    def enqueue(self, number):
        self.task(number)

    def enqueue_at(self, number, moment):
        self.task.schedule((number,), delay=moment - time.time())

    def work(self):
        self.open()
        self.huey.create_consumer(workers=self.spec.concurrency, periodic=False).run()


if __name__ == "__main__":
    main(Huey)
