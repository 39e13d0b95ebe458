"""The broker's shape as data: a YAML file, the values it becomes, and what can be computed from them."""
