"""What can be wrong with a machine: small pure functions from facts to findings."""
