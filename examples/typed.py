"""Typed tasks: arguments that are checked on their way out and in, by the annotations of a function.

The payload is a JSON object, for Go or whoever else reads and writes it. What does not fit is archived at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated

from cryptography.fernet import Fernet
from msgspec import Meta
from pydantic import BaseModel, Field

from aioasynq import Client, ServeMux, Server, Task, TaskType
from aioasynq.codecs import Encrypted
from aioasynq.devserver import redis_url

mux = ServeMux()
ended: asyncio.Queue[str] = asyncio.Queue()


class Currency(Enum):
    EUR = "eur"
    USD = "usd"


@dataclass
class Item:
    name: str
    count: Annotated[int, Meta(ge=1)] = 1


class Customer(BaseModel):
    name: str = Field(min_length=2)


@mux.task("order", max_retry=5, timeout=30)
async def order(number: int, items: list[Item], price: Decimal, currency: Currency, at: datetime) -> None:
    ended.put_nowait(f"order {number}: {len(items)} item for {price} {currency.name} in {at:%Y}")


@mux.task("greet")
async def greet(customer: Customer, password: str | None = None) -> None:
    ended.put_nowait(f"hello {customer.name}{'' if password is None else ', with a password'}")


@mux.task("secret", codec=Encrypted(Fernet.generate_key()))  # keys are for a vault, not for the code
async def secret(password: str) -> None:
    ended.put_nowait(f"a password of {len(password)} characters")


# Another service knows the signature, not the function.
@TaskType.declare("greet")
async def greet_elsewhere(customer: Customer) -> None: ...


@mux.on_archive
def archived(task: Task, error: BaseException) -> None:
    ended.put_nowait(f"{task.type} goes to the archive: {error}")


async def main() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    with redis_url() as url:
        async with Client(url) as client, Server(url, mux):
            task = order.task(7, [Item("pen")], price=Decimal("1.50"), currency=Currency.EUR, at=at)
            print(task.payload.decode())
            await client.enqueue(task)
            print(await ended.get())

            await greet_elsewhere.with_options(max_retry=0).enqueue(client, Customer(name="Ada"))
            print(await ended.get())

            await client.enqueue(Task("greet", '{"customer": {"name": "A"}}'))  # by name, from any language
            print(await ended.get())

            try:
                await secret.enqueue(client, password=42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            except TypeError as exc:
                print(f"not sent: {exc}")
            await secret.enqueue(client, password="hunter2")
            print(await ended.get())
    await greet(Customer(name="Bob"))
    print(f"called directly: {await ended.get()}")


if __name__ == "__main__":
    asyncio.run(main())
