"""What holds for every part of a config."""

from pydantic import ConfigDict

# as constants: infinity among the choices of a study would become null in its spec.yaml
STRICT_KEYS = ConfigDict(extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")
