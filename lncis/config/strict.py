"""What holds for every part of a config."""

from typing import Any

from pydantic import ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

# as constants: infinity among the choices of a study would become null in its spec.yaml
STRICT_KEYS = ConfigDict(extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")


def or_auto(number: str) -> WrapValidator:
    """Return the mark of a field that is a `number`, so described, or `auto`.

    Another value is one mistake then, where pydantic would raise one for the number and one for the word.
    """

    def check_once(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError as error:
            raise PydanticCustomError("number_or_auto", f"Input should be {number}, or auto") from error

    return WrapValidator(check_once)
