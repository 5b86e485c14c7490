"""Bytes: fingerprints, the store and its pool, Parquet tables, HDF5 arrays, sharing, removal; no torch, no concepts of models."""
