"""Placing work: dispatch by Prefect or Ray, the forms and pages of the deployments, and `sevila up`."""
