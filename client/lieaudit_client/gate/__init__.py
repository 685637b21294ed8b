"""The gate on the client's side: measure what a policy needs, have the service decide, write and record the outcome."""
