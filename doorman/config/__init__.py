"""Configuration: from a YAML or TOML file to frozen structs, or to a list of everything that is wrong with it.

`load.load_config` runs the pipeline (`yaml12`, `merge`, `legacy`, `convert`, `check`); `schema` has the keys,
`resolve` what holds for one pool, `hba` who may log in. No process state, no I/O but the files that are named.
"""
