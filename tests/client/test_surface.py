"""What the package exports, and that its two clients are one."""

import ast
import inspect
import pickle
import re
import typing

import lieaudit_client
import pytest
from lieaudit_client import AsyncClient, Client, exceptions


def test_all_is_exact():
    source = ast.parse(inspect.getsource(lieaudit_client))
    ours = [
        n for n in ast.walk(source) if isinstance(n, ast.ImportFrom) and str(n.module).startswith("lieaudit_client")
    ]
    assert sorted(lieaudit_client.__all__) == sorted(alias.name for node in ours for alias in node.names)
    assert all(hasattr(lieaudit_client, name) for name in lieaudit_client.__all__)
    errors = {name for name, kind in vars(exceptions).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert errors <= set(lieaudit_client.__all__)


def test_exception_tree_is_the_one_drawn():
    lines = re.findall(r"^    ((?:│   |    )*)(?:[├└]── )?(\w+Error)\b", exceptions.__doc__, re.MULTILINE)
    drawn = {name: len(indent) // 4 + (name != "ClientError") for indent, name in lines}
    real = {
        name: len(kind.__mro__) - len(exceptions.ClientError.__mro__)
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, exceptions.ClientError)
    }
    assert drawn == real


def test_errors_survive_pickling():
    error = exceptions.BusyError("full", reason="QUEUE_FULL", subject="s", hint="h", request_id="r", retry_after=2.0)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is exceptions.BusyError
    assert vars(again) == vars(error)
    assert str(again) == "full (h) [request r]"


def _public(kind):
    return {name: member for name, member in vars(kind).items() if callable(member) and not name.startswith("_")}


def test_both_clients_have_the_same_methods_and_parameters():
    sync, aio = _public(Client), _public(AsyncClient)
    assert sync.keys() == aio.keys()
    for name in sync:
        assert inspect.signature(sync[name]).parameters == inspect.signature(aio[name]).parameters, name
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters
    # A call is awaited, a list or watch iterated.
    for name, method in aio.items():
        streams = "AsyncIterator" in typing.cast("str", inspect.signature(method).return_annotation)
        assert inspect.iscoroutinefunction(method) != streams, name


@pytest.mark.parametrize("name", sorted(_public(Client)))
def test_every_method_is_described(name):
    assert inspect.getdoc(getattr(Client, name))
