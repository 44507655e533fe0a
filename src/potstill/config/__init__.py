"""The configuration of an experiment: strict YAML, a schema, overrides, all errors at once. No torch."""

from potstill.config.dump import dump, json_schema, to_yaml
from potstill.config.load import Resolved, find, recipes, resolve
from potstill.config.problems import ConfigErrors
from potstill.config.schema import Config

__all__ = ["Config", "ConfigErrors", "Resolved", "dump", "find", "json_schema", "recipes", "resolve", "to_yaml"]
