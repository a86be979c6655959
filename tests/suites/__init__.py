"""Other people's test suites, run against PostgreSQL and through the pooler: what comes out must be the same.

`fetch` gets their sources, `server_suites` and `driver_suites` say how each is built and run, `known` lists what
differs and why it must, `sides` has the servers, `run` is scripts/suites. See docs/testing.md.
"""
