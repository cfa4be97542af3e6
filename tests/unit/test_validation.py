"""What the annotations of a typed function let through, on the way out and on the way in, and what they cannot."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings, strategies as st

from aioasynq import Context, PayloadError, ServeMux, Task
from aioasynq.context import STATE

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Address:
    city: str
    zip_codes: list[int] = field(default_factory=list)


class Order(msgspec.Struct):
    id: int
    address: Address | None = None


class Options(TypedDict, total=False):
    dry: bool


class Point(NamedTuple):
    x: float
    y: float = 0.0


class User(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=2)
    born: date | None = None
    home: str = pydantic.Field("earth", alias="planet")


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    at: datetime


@dataclass
class Reading:
    at: float | None = None


class Gauge(pydantic.BaseModel):
    at: float | None = None


Small = Annotated[int, msgspec.Meta(ge=0, le=9)]

#: by row: annotation, value, its JSON, JSON that does not fit, what is said of that
TYPES: dict[str, tuple[Any, Any, str, str, str]] = {
    "int": (int, 5, "5", '"5"', "'value': expected `int`, got `str`"),
    "float": (float, 1.5, "1.5", "null", "'value': expected `float`, got `null`"),
    "bool": (bool, True, "true", "1", "'value': expected `bool`, got `int`"),
    "str": (str, "ü", '"ü"', "5", "'value': expected `str`, got `int`"),
    "bytes": (bytes, b"\x00\xff", '"AP8="', '"%"', "'value': invalid base64 encoded string"),
    "optional": (int | None, None, "null", '"x"', "'value': expected `int | null`, got `str`"),
    "union": (int | str, "x", '"x"', "1.5", "'value': expected `int | str`, got `float`"),
    "list": (list[int], [1, 2], "[1,2]", '[1,"x"]', "'value[1]': expected `int`, got `str`"),
    "dict": (dict[str, int], {"a": 1}, '{"a":1}', '{"a":"x"}', "'value[...]': expected `int`, got `str`"),
    "set": (set[int], {1}, "[1]", "{}", "'value': expected `array`, got `object`"),
    "tuple": (tuple[int, str], (1, "a"), '[1,"a"]', "[1]", "'value': expected `array` of length 2"),
    "literal": (Literal["a", "b"], "a", '"a"', '"c"', "'value': invalid enum value 'c'"),
    "enum": (Color, Color.RED, '"red"', '"pink"', "'value': invalid enum value 'pink'"),
    "decimal": (Decimal, Decimal("1.10"), '"1.10"', '"x"', "'value': invalid decimal string"),
    "uuid": (UUID, UUID(int=7), f'"{UUID(int=7)}"', '"7"', "'value': invalid UUID"),
    "datetime": (
        datetime,
        datetime(2026, 1, 2, 3, 4, 5, 600000, UTC),
        '"2026-01-02T03:04:05.600000Z"',
        '"yesterday"',
        "'value': invalid RFC3339 encoded datetime",
    ),
    "date": (date, date(2026, 1, 2), '"2026-01-02"', '"2026"', "'value': invalid RFC3339 encoded date"),
    "time": (time, time(1, 2), '"01:02:00"', '"1"', "'value': invalid RFC3339 encoded time"),
    "timedelta": (timedelta, timedelta(seconds=90), '"PT90S"', '"90"', "'value': invalid ISO8601 duration"),
    "dataclass": (Address, Address("Rome", [1]), '{"city":"Rome","zip_codes":[1]}', "{}", "'value': object missing"),
    "struct in struct": (
        Order,
        Order(1, Address("Rome")),
        '{"id":1,"address":{"city":"Rome","zip_codes":[]}}',
        '{"id":1,"address":{"city":5}}',
        "'value.address.city': expected `str`, got `int`",
    ),
    "list of dataclasses": (
        list[Address],
        [Address("Rome")],
        '[{"city":"Rome","zip_codes":[]}]',
        '[{"city":"Rome","zip_codes":["x"]}]',
        "'value[0].zip_codes[0]': expected `int`, got `str`",
    ),
    "typed dict": (Options, {"dry": True}, '{"dry":true}', '{"dry":1}', "'value.dry': expected `bool`, got `int`"),
    "named tuple": (Point, Point(1.0, 2.0), "[1.0,2.0]", '["x"]', "'value[0]': expected `float`, got `str`"),
    "with a rule": (Small, 9, "9", "10", "'value': expected `int` <= 9"),
    "model": (
        User,
        User(name="Ada", born=date(1815, 12, 10), planet="earth"),
        '{"name":"Ada","born":"1815-12-10","planet":"earth"}',
        '{"name":"A"}',
        "'value': name: String should have at least 2 characters",
    ),
    "list of models": (list[User], [], "[]", '[{"name":"Ada"},{}]', "'value[1]': name: Field required"),
    "optional model": (User | None, None, "null", "5", "'value': Input should be an object"),
    "strict model": (
        Strict,
        Strict(at=datetime(2026, 1, 2, tzinfo=UTC)),
        '{"at":"2026-01-02T00:00:00Z"}',
        '{"at":5}',
        "'value': at: Input should be a valid datetime",
    ),
}


def mux_of(annotation: Any, **default: Any) -> tuple[ServeMux, Any]:
    """A mux whose handler returns its one argument, ``value``."""
    mux = ServeMux()

    async def handler(value: Any) -> Any:
        return value

    handler.__annotations__["value"] = annotation
    if default:
        handler.__defaults__ = (default["default"],)
    return mux, mux.task("t")(handler)


@pytest.mark.parametrize(("annotation", "value", "json", "bad", "text"), TYPES.values(), ids=TYPES)
async def test_types(annotation, value, json, bad, text):
    mux, handler = mux_of(annotation)
    task = handler.task(value=value)
    assert task.payload.decode() == f'{{"value":{json}}}'
    got = await mux(task)
    assert (got, type(got)) == (value, type(value))
    with pytest.raises(PayloadError) as refused:
        await mux(Task("t", f'{{"value":{bad}}}'))
    assert str(refused.value).lower().startswith(f"payload of task 't' does not fit its handler: {text}".lower())


async def test_what_no_set_can_hold_goes_to_the_archive():
    mux, handler = mux_of(set[Any])
    assert await mux(handler.task({1})) == {1}
    with pytest.raises(PayloadError, match=r"^payload of task 't' does not fit its handler: unhashable type: 'list'$"):
        await mux(Task("t", '{"value":[[1]]}'))


UNSENT = {
    "of another type": (int, "5", TypeError, "'value': expected `int`, got `str`"),
    "deep within": (list[Address], [Address(5)], TypeError, r"'value\[0\].city': expected `str`, got `int`"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "against a rule": (Small, 10, ValueError, "'value': expected `int` <= 9"),
    "no member of an enum": (Color, "pink", ValueError, "'value': invalid enum value 'pink'"),
    "not finite": (float, math.inf, ValueError, "argument 'value' cannot be JSON: not a finite number"),
    "not finite, deep within": (Point, Point(math.nan), ValueError, "argument 'value' cannot be JSON"),
    "not finite, in a field": (Reading, Reading(math.nan), ValueError, "argument 'value' cannot be JSON: not a finite"),
    "not finite, in a model": (list[Gauge], [Gauge(at=-math.inf)], ValueError, "argument 'value' cannot be JSON"),
    "no member of a set": (set[frozenset[Any]], {frozenset({(1, 2)})}, ValueError, "unhashable type: 'list'"),
    "no JSON": (Any, {1, object()}, TypeError, "an argument cannot be JSON: Encoding objects of type object is"),
    "a class": (Any, User, TypeError, "an argument cannot be JSON: Encoding objects of type ModelMetaclass is"),
}


@pytest.mark.parametrize(("annotation", "value", "error", "text"), UNSENT.values(), ids=UNSENT)
def test_what_its_own_handler_would_not_take_is_not_sent(annotation, value, error, text):
    _, handler = mux_of(annotation)
    with pytest.raises(error, match=f"^task 't': {text}"):
        handler.task(value=value)


# At import


def only_for_checkers(value: OnlyForCheckers): ...
def method(self, value: int): ...
def private(_value: int): ...
def forgotten(task): ...
def late(value: int, task: Task, /): ...
def others(**values: complex): ...


class Plain:
    pass


@pydantic.dataclasses.dataclass
class Checked:
    a: int


def annotated(annotation: Any) -> Callable[..., Any]:
    def function(value: Any) -> None: ...

    function.__annotations__["value"] = annotation
    return function


WRONG = {
    "a class of one's own": (
        annotated(Plain),
        r"parameter 'value' has an .* cannot be validated: .*\.Plain is neither",
    ),
    "deep within": (annotated(dict[str, list[Plain] | None]), "cannot be validated: .*Plain is neither built in"),
    "a function": (annotated(Callable[[int], int]), "cannot be validated: .*Callable is neither built in"),
    "complex": (annotated(complex), "cannot be validated: builtins.complex is neither built in"),
    "of others": (others, "parameter 'values' has an annotation that cannot be validated: builtins.complex"),
    "a union that nobody can tell apart": (annotated(Address | Order), "cannot be validated: Type unions may not"),
    "datetime or text": (
        annotated(datetime | str),
        "cannot be validated: Type unions may not contain more than one st",
    ),
    "a dataclass of pydantic": (annotated(Checked), "Checked is a dataclass of pydantic, whose own checks"),
    "an optional task": (annotated(Task | None), "Task is neither .*; a task or context is filled in where that alone"),
    "a name under TYPE_CHECKING": (
        only_for_checkers,
        r"annotation 'OnlyForCheckers' of parameter 'value' cannot be resolved \(name .* is not defined\); it has to",
    ),
    "a method": (method, "parameter name 'self' is reserved: register a function, or a method of an object"),
    "an underscore": (private, "parameter name '_value' is reserved, as are all that begin with an underscore"),
    "a task without annotation": (forgotten, "'task' without an annotation is reserved: annotate it with Task to have"),
    "a positional-only task behind": (late, "positional-only parameter 'value' of"),
}


@pytest.mark.parametrize(("function", "text"), WRONG.values(), ids=WRONG)
def test_signatures_that_cannot_be_checked(function, text):
    mux = ServeMux()
    with pytest.raises(TypeError, match=f"^task 't'.*{text}"):
        mux.task("t")(function)
    assert len(mux) == 0


DEFAULTS = {
    "no JSON": (
        Any,
        object(),
        "default of parameter 'value', <object .*, cannot be JSON: Encoding objects of type object",
    ),
    "not finite": (float, math.nan, "default of parameter 'value', nan, cannot be JSON: not a finite number"),
    "of another type": (
        int,
        None,
        "default of parameter 'value', None, does not fit its annotation: 'value': expected",
    ),
    "against a rule": (
        Small,
        10,
        "default of parameter 'value', 10, does not fit its annotation: 'value': expected `int` <= 9",
    ),
}


@pytest.mark.parametrize(("annotation", "default", "text"), DEFAULTS.values(), ids=DEFAULTS)
def test_defaults_are_checked(annotation, default, text):
    with pytest.raises(TypeError, match=f"^task 't': the {text}"):
        mux_of(annotation, default=default)


@pytest.mark.parametrize(
    ("annotation", "default"),
    [(list[int], [1]), (dict[str, int] | None, {}), (Address, Address("Rome")), (Color, Color.RED), (object, ())],
    ids=["list", "empty dict", "dataclass", "enum", "tuple"],
)
async def test_a_default_is_the_functions_own(annotation, default):
    mux, handler = mux_of(annotation, default=default)
    assert handler.task().payload == b"{}"
    assert await mux(Task("t")) is default


async def test_annotations_may_name_what_is_local():
    @dataclass
    class Local:
        a: int

    mux = ServeMux()

    @mux.task("t")
    async def handler(value: Local) -> Local:
        return value

    assert await mux(handler.task(Local(1))) == Local(1)


async def test_a_method_of_an_object_may_be_registered():
    class Mailer:
        def __init__(self) -> None:
            self.sent: list[int] = []

        async def send(self, user_id: int) -> None:
            self.sent.append(user_id)

    mux, mailer = ServeMux(), Mailer()
    send = mux.task("t")(mailer.send)
    await mux(send.task(user_id=1))
    with pytest.raises(PayloadError, match="'user_id': expected `int`, got `str`"):
        await mux(Task("t", b'{"user_id":"x"}'))
    assert mailer.sent == [1]


async def test_others_are_checked_too():
    mux = ServeMux()

    @mux.task("t")
    async def handler(at: datetime, *, task: Task, **others: Small) -> object:
        return at, others, task.type

    sent = handler.task(at=datetime(2026, 1, 2, tzinfo=UTC), b=1, a=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert sent.payload == b'{"at":"2026-01-02T00:00:00Z","a":2,"b":1}'
    assert await mux(sent) == (datetime(2026, 1, 2, tzinfo=UTC), {"a": 2, "b": 1}, "t")
    for payload, text in {
        b'{"at":"2026-01-02T00:00:00Z","a":10}': r"expected `int` <= 9",
        b'{"at":5}': "'at': expected `str`, got `int`|'at': expected `datetime`, got `int`",
        b'{"at":"2026-01-02T00:00:00Z","task":1}': "unexpected 'task'$",
        b'{"a":1}': "missing 'at'$",
    }.items():
        with pytest.raises(PayloadError, match=text):
            await mux(Task("t", payload))


# What is filled in


@dataclass
class State:
    name: str


def first(context: Context[State], a: int = 0) -> object:
    return context.task.type, context.state.name, a


def task_first(task: Task, a: int = 0) -> object:
    return task.type, task.payload, a


def positional_only(context: Context, /, a: int = 0, *, b: int = 0) -> object:  # type: ignore[type-arg]
    return context.state.name, a, b


def elsewhere(a: int = 0, *, task: Task, context: Context[State]) -> object:
    return a, task.type, context.state.name


FILLED: dict[str, tuple[Callable[..., object], bytes, object]] = {
    "a context in front": (first, b'{"a":1}', ("t", "state", 1)),
    "a task in front": (task_first, b'{"a":1}', ("t", b'{"a":1}', 1)),
    "positional-only": (positional_only, b'{"a":1,"b":2}', ("state", 1, 2)),
    "anywhere, as often as wanted": (elsewhere, b'{"a":1}', (1, "t", "state")),
}


@pytest.mark.parametrize(("function", "payload", "result"), FILLED.values(), ids=FILLED)
async def test_a_task_or_context_is_filled_in(function, payload, result):
    STATE.set(State("state"))

    async def handler(*args: Any, **kwargs: Any) -> object:
        return function(*args, **kwargs)

    handler.__wrapped__ = function  # type: ignore[attr-defined]
    mux = ServeMux()
    made = mux.task("t")(handler)
    assert await mux(Task("t", payload)) == result
    assert made.task(a=1).payload == b'{"a":1}'
    filled = [name for name in ("task", "context") if name in function.__annotations__]
    for name in filled:
        with pytest.raises(PayloadError, match=f"unexpected '{name}'$"):
            await mux(Task("t", f'{{"{name}":1}}'))
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            made.task(**{name: 1})


async def test_without_a_server_there_is_no_state():
    mux = ServeMux()

    @mux.task("t")
    async def handler(context: Context[State | None]) -> object:
        return context.state

    assert await mux(handler.task()) is None
    assert await handler(Context(Task("t"), State("made"))) == State("made")


# Whatever comes

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["user", "order", "at", "price", "color", "data", "point", "others"]


@settings(deadline=None, max_examples=150)
@given(
    st.binary(max_size=40)
    | st.dictionaries(st.sampled_from(NAMES), JSON_VALUES, max_size=4).map(msgspec.json.encode)
    | JSON_VALUES.map(msgspec.json.encode)
)
def test_no_payload_raises_anything_else(payload):
    mux = ServeMux()

    @mux.task("t")
    async def handler(
        user: User | None = None,
        order: Order | None = None,
        at: datetime | None = None,
        price: Decimal = Decimal(0),
        color: Color = Color.RED,
        data: bytes = b"",
        point: Point | None = None,
    ) -> str:
        return "done"

    with pytest.raises((StopIteration, PayloadError)) as ended:  # a coroutine that waits for nothing ends so
        mux(Task("t", payload)).send(None)
    if isinstance(ended.value, StopIteration):
        assert ended.value.value == "done"
    else:
        assert str(ended.value).startswith("payload of task 't' ")
