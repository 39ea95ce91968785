"""Rules for apps and their endpoints, and the schemas that are made of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, Field, RootModel

from darkroom import App, AppError, Image, endpoint
from darkroom.app import endpoints_of
from darkroom.running import describe_app


class Plain(App):
    @endpoint()
    def answer(self, name: str, times: int = 2, _shown: int = 0) -> dict[str, str]:
        raise NotImplementedError


class Style(BaseModel):
    strength: float = Field(0.5, ge=0, le=1)


class Order(BaseModel):
    prompt: str
    style: Style = Style()
    copies: int | None = Field(None, ge=1)


class Branch(BaseModel):
    name: str
    children: list[Branch] = []


class Numbers(RootModel[list[int]]):
    pass


class Mood(Enum):
    GOOD = "good"


def make_app(**methods: Any) -> type[App]:
    """App with ``methods``, each of them an endpoint at its own path."""
    for name, method in methods.items():
        if callable(method):
            endpoint(f"/{name}")(method)
    return type("Made", (App,), methods)


def no_return(self: App, x: int):
    raise NotImplementedError


def no_type(self: App, x) -> int:
    raise NotImplementedError


def many(self: App, *x: int) -> int:
    raise NotImplementedError


def any_keywords(self: App, **x: int) -> int:
    raise NotImplementedError


def by_place(self: App, x: int, /) -> int:
    raise NotImplementedError


def private_name(self: App, _x: int) -> int:
    raise NotImplementedError


def reserved_name(self: App, model_dump: int) -> int:
    raise NotImplementedError


def function_in(self: App, x: Callable[[], int]) -> int:
    raise NotImplementedError


def object_in(self: App, x: object, y: pytest.Item) -> int:
    raise NotImplementedError


def object_out(self: App) -> pytest.Item:
    raise NotImplementedError


def unknown_type(self: App, x: Nothing) -> int:  # noqa: F821
    raise NotImplementedError


def bare_stream(self: App) -> Iterator:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (no_return, "Made.method does not say what it returns: add `-> Output`"),
        (no_type, "Made.method: the argument x has no type"),
        (many, "Made.method: *x cannot be described; name its arguments"),
        (any_keywords, "Made.method: *x cannot be described; name its arguments"),
        (by_place, "Made.method: the argument x must be usable by its name: remove the `/`"),
        (private_name, "Made.method: the argument _x cannot be a field; rename it"),
        (reserved_name, "Made.method: the argument model_dump cannot be a field; rename it"),
        (function_in, "Made.method: the argument x has a type that JSON cannot describe: "),
        (object_in, "Made.method: the argument y has a type that JSON cannot describe: "),
        (object_out, "Made.method returns a type that JSON cannot describe: "),
        (unknown_type, "name 'Nothing' is not defined; its annotations must be importable"),
        (bare_stream, "Made.method does not say what it yields: write `-> Iterator[Output]`"),
    ],
)
def test_a_method_that_cannot_be_an_endpoint_is_refused_with_its_name(
    method: Any, sentence: str
) -> None:
    with pytest.raises(TypeError) as raised:
        endpoints_of(make_app(method=method))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_app_without_endpoints_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Made has no method with @darkroom.endpoint"):
        endpoints_of(make_app())


def test_two_methods_with_one_path_are_refused_also_with_a_slash_at_the_end() -> None:
    class Twice(App):
        @endpoint("/same/")
        def one(self) -> int:
            raise NotImplementedError

        @endpoint("/same")
        def two(self) -> int:
            raise NotImplementedError

    with pytest.raises(TypeError, match="Twice: one and two have the path /same"):
        endpoints_of(Twice)


def test_a_decorator_without_parentheses_says_how_it_is_written() -> None:
    with pytest.raises(TypeError, match=r'write @darkroom.endpoint\("/"\)'):
        endpoint(order)


def test_a_path_begins_with_a_slash() -> None:
    with pytest.raises(ValueError, match="begins with a slash: 'greet'"):
        endpoint("greet")


def test_a_static_method_is_refused() -> None:
    class Static(App):
        @staticmethod
        @endpoint("/")
        def answer(x: int) -> int:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"Static.answer must be a method with `self`"):
        endpoints_of(Static)


def test_an_argument_whose_name_begins_with_an_underscore_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="the argument _shown cannot be a field"):
        endpoints_of(Plain)


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("requirements", "numpy", "Made.requirements must be a list of texts"),
        ("requirements", [1], "Made.requirements must be a list of texts"),
        ("secrets", "HF_TOKEN", "Made.secrets must be a list of texts"),
        ("secrets", [1], "Made.secrets must be a list of texts"),
        ("concurrency", 0, "Made.concurrency must be a whole number from 1, not 0"),
        ("concurrency", True, "Made.concurrency must be a whole number from 1, not True"),
        ("start_timeout_s", "1h", "Made.start_timeout_s must be a number of seconds, not '1h'"),
        ("start_timeout_s", float("nan"), "must be a number of seconds, not nan"),
        ("gpu", True, "Made.gpu must be a text, not True"),
        ("name", None, "Made.name must be a text, not None"),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(
    setting: str, value: Any, sentence: str
) -> None:
    def answer(self: App) -> int:
        raise NotImplementedError

    app = make_app(answer=answer)
    setattr(app, setting, value)
    with pytest.raises(TypeError) as raised:
        describe_app(app)
    assert sentence in str(raised.value)


# Schemas.


def order(self: App, order: Order) -> Order:
    return order


def tree(self: App, tree: Branch) -> Branch:
    return tree


def names_of_models(self: App, copy: int, json: str, schema: bool = True) -> dict[str, Any]:
    return {"copy": copy, "json": json, "schema": schema}


def test_arguments_become_fields_with_their_defaults_in_their_order() -> None:
    def answer(self: App, second: str, first: int = 3) -> dict[str, int]:
        raise NotImplementedError

    method = endpoints_of(make_app(answer=answer))["/answer"]
    schema = method.input_schema()
    assert schema["x-fal-order-properties"] == ["second", "first"]
    assert schema["required"] == ["second"]
    assert schema["properties"]["first"]["default"] == 3
    assert method.arguments({"second": "a"}) == ((), {"second": "a", "first": 3})


def test_one_model_is_the_input_itself_with_its_definitions() -> None:
    method = endpoints_of(make_app(order=order))["/order"]
    schema = method.input_schema()
    assert schema["required"] == ["prompt"]
    assert schema["$defs"]["Style"]["properties"]["strength"]["maximum"] == 1
    ((ordered,), named) = method.arguments({"prompt": "a", "style": {"strength": 1}})
    assert (ordered, named) == (Order(prompt="a", style=Style(strength=1)), {})


def test_a_model_that_contains_itself_is_an_object_at_the_top() -> None:
    method = endpoints_of(make_app(tree=tree))["/tree"]
    for schema in (method.input_schema(), method.output_schema()):
        assert schema["type"] == "object"
        assert "$ref" not in schema
        assert schema["x-fal-order-properties"] == ["name", "children"]
        assert schema["$defs"]["Branch"]["properties"]["children"]["items"] == {
            "$ref": "#/$defs/Branch"
        }
    assert method.wrap == ""


def test_fields_may_have_the_names_of_methods_of_models() -> None:
    method = endpoints_of(make_app(call=names_of_models))["/call"]
    assert method.arguments({"copy": 1, "json": "a"})[1] == {"copy": 1, "json": "a", "schema": True}


RETURNS: list[tuple[Any, Any, dict[str, Any]]] = [
    (str, "a", {"output": "a"}),
    (list[int], [1, 2], {"output": [1, 2]}),
    (Numbers, Numbers([3]), {"output": [3]}),
    (Mood, Mood.GOOD, {"output": "good"}),
    (Order | None, None, {"output": None}),
    (type(None), None, {"output": None}),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (Style, Style(), {"strength": 0.5}),
]


@pytest.mark.parametrize(("type_", "value", "sent"), RETURNS, ids=str)
def test_an_output_that_is_no_object_gets_a_key(
    type_: Any, value: Any, sent: dict[str, Any]
) -> None:
    def answer(self: App) -> Any:
        raise NotImplementedError

    answer.__annotations__["return"] = type_
    method = endpoints_of(make_app(answer=answer))["/answer"]
    assert method.plain(value) == sent
    schema = method.output_schema()
    assert schema["type"] == "object"
    assert ("output" in schema["required"]) if method.wrap else True


def test_an_image_is_wrapped_under_its_kind() -> None:
    def draw(self: App) -> Image:
        raise NotImplementedError

    schema = endpoints_of(make_app(draw=draw))["/draw"].output_schema()
    assert schema["required"] == ["image"]
    assert schema["properties"]["image"]["x-darkroom-file"] == "image"


def test_a_generator_describes_its_values() -> None:
    def some(self: App) -> Iterator[int]:
        raise NotImplementedError

    async def later(self: App) -> AsyncIterator[Order]:
        raise NotImplementedError
        yield

    methods = endpoints_of(make_app(some=some, later=later))
    assert methods["/some"].streams
    assert methods["/later"].streams
    assert methods["/some"].output_schema()["properties"]["output"]["type"] == "integer"
    assert methods["/later"].output_schema()["required"] == ["prompt"]


@pytest.mark.parametrize(
    ("type_", "value", "sentence"),
    [
        (int, "many", "answer returned something else than it declares: Input should be a valid"),
        (Order, {"prompt": 1}, "answer returned something else than it declares: prompt: "),
        (dict[str, Any], {"a": object()}, "answer returned what cannot be sent as JSON: "),
        (
            dict[str, Any],
            {"a": [{"$file": "/etc/passwd"}]},
            "field $file, whose name is reserved",
        ),
    ],
)
def test_a_result_of_another_type_is_an_error_with_the_place(
    type_: Any, value: Any, sentence: str
) -> None:
    def answer(self: App) -> Any:
        raise NotImplementedError

    answer.__annotations__["return"] = type_
    method = endpoints_of(make_app(answer=answer))["/answer"]
    with pytest.raises(AppError) as raised:
        method.plain(value)
    assert sentence in raised.value.message


def test_a_number_that_json_lacks_is_null() -> None:
    def answer(self: App) -> dict[str, Any]:
        raise NotImplementedError

    method = endpoints_of(make_app(answer=answer))["/answer"]
    assert method.plain({"a": float("nan")}) == {"a": None}


def test_an_app_is_described_with_its_settings() -> None:
    class Greeter(App):
        requirements = ("numpy>=2",)
        gpu = "L4"
        concurrency = 3
        secrets = ("HF_TOKEN",)

        @endpoint("/")
        def greet(self, name: str) -> dict[str, str]:
            """Greet a person."""
            raise NotImplementedError

    description = describe_app(Greeter)
    (only,) = description.pop("endpoints")
    assert description == {
        "name": "greeter",
        "requirements": ["numpy>=2"],
        "gpu": "L4",
        "concurrency": 3,
        "secrets": ["HF_TOKEN"],
        "start_timeout_s": 600.0,
    }
    assert (only["path"], only["description"], only["streams"]) == ("/", "Greet a person.", False)
