"""celery with a pool of 100 threads in one process: results ignored, no gossip, mingle or heartbeat, events off."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import Celery

from benchmarks.program import SyncSystem, main


class CelerySystem(SyncSystem):
    def prepare(self):
        self.app = Celery("bench", broker=self.spec.redis)
        self.app.conf.update(
            task_ignore_result=True, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True
        )

        def bench(number):
            self.handle(number)

        self.task = self.app.task(name="bench")(bench)

    def open(self):
        self.prepare()

    def enqueue(self, number):
        self.task.apply_async((number,))

    def enqueue_at(self, number, moment):
        self.task.apply_async((number,), eta=datetime.fromtimestamp(moment, UTC))

    def work(self):
        self.prepare()
        self.app.worker_main(
            [
                "worker",
                "--pool=threads",
                f"--concurrency={self.spec.concurrency}",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
                "--loglevel=ERROR",
            ]
        )


if __name__ == "__main__":
    main(CelerySystem)
