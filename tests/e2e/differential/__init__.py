"""The differential test: the same messages to PostgreSQL itself and through the pooler must be answered the same.

`script` is what a client says, `strategies` makes scripts, `talk` says them to one side, `verdict` compares what came
back, `bench` has the sides ready, `smallest` shrinks what differs, `run` is scripts/differential. See docs/testing.md.
"""
