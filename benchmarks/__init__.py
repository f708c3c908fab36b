"""Benchmarks: run by hand, measured beside others in one run, never asserted in a test."""
