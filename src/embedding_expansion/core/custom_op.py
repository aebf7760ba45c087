"""Functions that torch.compile takes as one operator, since their sizes or loops depend on values.

Eager code calls them as they are: an operator of `torch.library` loads the whole compiler when it is first called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class CustomOp(Generic[P, R]):
    """A function, and the operator that stands for it in compiled code.

    Args:
        name: of the operator.
        function: on tensors and plain values, annotated as `torch.library.custom_op` asks for.
        fake: gives results of the right shapes.
        keep: saves what the backward pass needs; the `setup_context` of an autograd function.
        backward: maps `back`, the context and the gradients of the results to the gradients of the arguments.
        back: the function, itself a custom op, that `backward` calls.
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
        self.compiled = torch.library.custom_op(f"embedding_expansion::{name}", function, mutates_args=())
        self.compiled.register_fake(fake)
        self.eager: Callable[..., Any] = function
        if keep is not None and backward is not None and back is not None:
            self.compiled.register_autograd(partial(backward, back.compiled), setup_context=keep)
            steps: dict[str, Any] = {"forward": function, "setup_context": keep}
            steps["backward"] = partial(backward, back.eager)
            methods = {key: staticmethod(step) for key, step in steps.items()}
            self.eager = type(name, (torch.autograd.Function,), methods).apply  # type: ignore[attr-defined]

    def __call__(self, *given: P.args, **named: P.kwargs) -> R:
        """The function's result."""
        call = self.compiled if torch.compiler.is_compiling() else self.eager
        result: R = call(*given, **named)
        return result
