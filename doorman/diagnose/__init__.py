"""`pg_doorman check-auth`: the steps of a login, walked one by one in the operator's shell. No pooler need run."""
