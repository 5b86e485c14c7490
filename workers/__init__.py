"""Placing work: Prefect's dispatch, Ray, the deployments' forms and pages, and `sevila up`."""
