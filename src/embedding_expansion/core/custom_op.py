"""Functions that torch.compile treats as one operator, because their sizes or loops depend on values.

Eager code calls the function directly, because an operator of `torch.library` loads the whole compiler on first use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that registers a function as the operator of this name, which changes none of its arguments.

    Torch reads the annotations of the function, which the import hook of jaxtyping would hide behind a wrapper.
    """

    def registered(function: Callable[..., Any]) -> Any:
        return torch.library.custom_op(f"embedding_expansion::{name}", inspect.unwrap(function), mutates_args=())

    return registered


class CustomOp(Generic[P, R]):
    """A function, with an operator that replaces it in compiled code.

    Args:
        name: the name of the operator.
        function: takes tensors and plain values, annotated as `torch.library.custom_op` requires.
        fake: returns results of the right shapes, without values.
        keep: saves what the backward pass needs; the `setup_context` of an autograd function.
        backward: maps `back`, the context and the gradients of the results to the gradients of the arguments.
        back: the custom op that `backward` calls.
    """

    def __init__(
        self,
        name: str,
        function: Callable[P, R],
        fake: Callable[..., Any],
        keep: Callable[..., None] | None = None,
        backward: Callable[..., Any] | None = None,
        back: CustomOp[Any, Any] | None = None,
    ) -> None:
        self.compiled = operator(name)(function)
        self.compiled.register_fake(fake)
        self.eager: Callable[..., Any] = function
        if keep is not None and backward is not None and back is not None:
            self.compiled.register_autograd(partial(backward, back.compiled), setup_context=keep)
            steps: dict[str, Any] = {"forward": function, "setup_context": keep}
            steps["backward"] = partial(backward, back.eager)
            methods = {key: staticmethod(step) for key, step in steps.items()}
            self.eager = type(name, (torch.autograd.Function,), methods).apply  # type: ignore[attr-defined]

    def __call__(self, *given: P.args, **named: P.kwargs) -> R:
        """Calls the function, or the operator in compiled code."""
        call = self.compiled if torch.compiler.is_compiling() else self.eager
        result: R = call(*given, **named)
        return result
