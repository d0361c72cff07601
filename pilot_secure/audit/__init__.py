"""The auditor: what a run's messages prove, without secrets and without the model libraries."""
