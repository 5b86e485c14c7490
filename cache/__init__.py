"""Bytes: fingerprints, the store and its pool, Parquet tables, HDF5 arrays; no torch, and no concepts of models."""
