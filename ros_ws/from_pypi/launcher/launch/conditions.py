"""Conditions on actions."""

from .core import Condition, LaunchContext, SomeText, as_substitutions, perform
from .refusal import refuse_names

__all__ = ["IfCondition", "InvalidConditionExpressionError", "UnlessCondition"]


class InvalidConditionExpressionError(RuntimeError):
    """The expression is neither true nor false."""


def _evaluate(context: LaunchContext, expression: SomeText) -> bool:
    text = perform(context, as_substitutions(expression)).strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise InvalidConditionExpressionError(
        f"condition: got '{text}', expected one of true, 1, false, 0"
    )


class IfCondition(Condition):
    """Holds where the expression is 'true' or '1'."""

    def __init__(self, predicate_expression: SomeText) -> None:
        """The expression is evaluated each time."""
        super().__init__(predicate=lambda context: _evaluate(context, predicate_expression))


class UnlessCondition(Condition):
    """Holds where the expression is 'false' or '0'."""

    def __init__(self, predicate_expression: SomeText) -> None:
        """The expression is evaluated each time."""
        super().__init__(predicate=lambda context: not _evaluate(context, predicate_expression))


__getattr__ = refuse_names("launch.conditions")
